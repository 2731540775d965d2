package ktls

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
)

// rekeys know whether keys can be replaced of connections with a local address.
// The kernel can if the probe says so, but a network card that encrypts may refuse,
// so the first connection of each address tries. Connections with the same address
// leave by the same card, as a rule: where one doesn't, and refuses, a KeyUpdate
// ends it.
type rekeys struct {
	mu    sync.Mutex
	known map[netip.Addr]bool
}

// maxRekeys bounds what is remembered, as a machine may have any number of addresses.
const maxRekeys = 1000

// ask reports whether try succeeds for an address, or did so before. Want of memory
// says nothing about other connections.
func (r *rekeys) ask(local net.Addr, try func() error) bool {
	tcp, ok := local.(*net.TCPAddr)
	if !ok {
		return try() == nil
	}
	address := tcp.AddrPort().Addr()
	r.mu.Lock()
	defer r.mu.Unlock()
	if can, known := r.known[address]; known {
		return can
	}
	err := try()
	if errors.Is(err, syscall.ENOMEM) {
		return false
	}
	if r.known == nil || len(r.known) >= maxRekeys {
		r.known = make(map[netip.Addr]bool)
	}
	r.known[address] = err == nil
	return err == nil
}
