package ktls

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
)

// rekeys know whether keys of a cipher can be replaced for connections with a local
// address. The kernel can if the probe says so, but a network card that encrypts may
// refuse, so the first connection of each kind tries. Those of one kind leave by the
// same card, as a rule: where one doesn't, and refuses, a KeyUpdate ends it, and no
// other.
type rekeys struct {
	mu    sync.Mutex
	known map[rekeyKind]bool
}

type rekeyKind struct {
	address netip.Addr
	cipher  uint16 // as in the kernel's crypto info
}

// maxRekeys bounds what is remembered, because a machine may have any number of
// addresses.
const maxRekeys = 1000

// ask reports whether try succeeds for a connection, or did so before for one of its
// kind.
func (r *rekeys) ask(local net.Addr, s *suite, try func() error) bool {
	kind, ok := kindOf(local, s)
	if !ok {
		return try() == nil
	}
	r.mu.Lock()
	can, known := r.known[kind]
	r.mu.Unlock()
	if known {
		return can
	}
	err := try()
	if err == nil || saysNoRekey(err) {
		r.set(kind, err == nil)
	}
	return err == nil
}

// refused notes that the key of a connection could not be replaced after all.
func (r *rekeys) refused(local net.Addr, s *suite, err error) {
	if kind, ok := kindOf(local, s); ok && saysNoRekey(err) {
		r.set(kind, false)
	}
}

// saysNoRekey reports whether an error says something about the kernel or the card.
// Want of memory doesn't, nor that the connection is gone.
func saysNoRekey(err error) bool {
	return errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.EINVAL)
}

func (r *rekeys) set(kind rekeyKind, can bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known == nil || len(r.known) >= maxRekeys {
		r.known = make(map[rekeyKind]bool)
	}
	r.known[kind] = can
}

func kindOf(local net.Addr, s *suite) (kind rekeyKind, ok bool) {
	tcp, ok := local.(*net.TCPAddr)
	if !ok {
		return kind, false
	}
	return rekeyKind{tcp.AddrPort().Addr(), s.kernel}, true
}
