package ktls

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
)

// keyLimit is how many records one AES-GCM key may protect. RFC 8446, section 5.5, allows
// 2^24.5 records of full size. Java allows fewer. After 2^37 bytes under one key, 512
// records before 2^23, it sends a KeyUpdate for every record that it receives, until the
// key is new (JDK-8329548; the property jdk.tls.keyLimits has the limit). Half of 2^23
// leaves room for the Write or the response that is under way. ChaCha20-Poly1305 has no
// limit that matters.
const keyLimit = 1 << 22

// A keyRenewal knows how and when the kernel's key is replaced. Before the offload it
// knows nothing.
type keyRenewal struct {
	suite *suite // set by the offload, as is can
	can   bool   // the kernel can replace the key

	limit   uint64      // records that one key may protect
	at      uint64      // when the kernel has made so many records, the key must be replaced; Conn.out guards it
	retired atomic.Bool // see Conn.Retired

	mu     sync.Mutex // guards secret, which Close zeroes while somebody sends
	secret []byte     // traffic secret of the kernel's key, if that can be replaced
}

// begin notes the first key. rekey says whether the kernel can replace it. Caller holds
// Conn.out.
func (k *keyRenewal) begin(h handover, rekey bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.suite = h.key.suite
	k.at = firstRenewal(k.suite, h.next, k.limit)
	if k.can = rekey && !h.key.forgotten; k.can {
		k.secret = bytes.Clone(h.key.secret)
	}
}

// next goes on to the kernel's next key, and returns the crypto info for it.
func (k *keyRenewal) next() ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.secret == nil {
		return nil, net.ErrClosed // the secret was forgotten, by Close
	}
	secret, err := nextSecret(k.suite, k.secret)
	if err != nil {
		return nil, err
	}
	clear(k.secret)
	k.secret = secret
	key, err := newTrafficKey13(k.suite, secret)
	if err != nil {
		return nil, err
	}
	defer key.wipe()
	return cryptoInfo(key, 0), nil
}

// retire notes that the key can't be replaced, and reports whether that is news.
func (k *keyRenewal) retire() bool { return !k.retired.Swap(true) }

// forget zeroes the secret. The key can't be replaced any more.
func (k *keyRenewal) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.secret)
	k.secret = nil
}

// firstRenewal returns how many records the kernel may make under its first key.
// crypto/tls has used the first sequence numbers of that key.
func firstRenewal(s *suite, first, limit uint64) uint64 {
	if s.kernel == cipherChaCha20Poly1305 {
		return math.MaxUint64
	}
	return limit - min(first, limit)
}

// needsRekey reports whether the key has protected enough records. Caller holds c.out.
func (c *Conn) needsRekey() bool {
	return c.renewal.at != math.MaxUint64 && c.kernel.records() >= c.renewal.at
}

// renewKey replaces a key that has protected enough records, or retires the
// connection. Caller holds c.out.
func (c *Conn) renewKey() error {
	if c.renewal.can {
		return c.updateKey()
	}
	c.renewal.at = math.MaxUint64
	if c.renewal.retire() {
		c.out.notices = append(c.out.notices, c.tellRetired)
	}
	return nil
}

// updateKey sends a KeyUpdate and gives the kernel the key that follows (RFC 8446,
// section 4.6.3). No record may be open. If the kernel refuses the key, no record may
// follow, because the peer expects the new key. Caller holds c.out.
func (c *Conn) updateKey() error {
	if err := c.kernel.sendControl(recordHandshake, keyUpdate[:], true); err != nil {
		return err
	}
	info, err := c.renewal.next()
	if err != nil {
		return err
	}
	defer clear(info)
	if err := c.kernel.rekey(info); err != nil {
		c.server.rekeys.refused(c.raw.LocalAddr(), c.renewal.suite, err)
		return fmt.Errorf("%w: %w", errRekey, err)
	}
	if c.renewal.at != math.MaxUint64 {
		c.renewal.at = c.kernel.records() + c.renewal.limit
	}
	if f := c.server.options.KeyUpdated; f != nil {
		c.out.notices = append(c.out.notices, func() { f(c) })
	}
	return nil
}

var errRekey = errors.New("ktls: the kernel refused a new key")

// Retired reports whether the connection should be closed as soon as what is under way is
// complete, because its sending key can't be replaced. The peer has asked for a new key
// by a KeyUpdate, or the key has protected very many records. That happens with TLS 1.2
// and before Linux 6.14. Until the connection is closed, everything works.
//
// With net/http the ConnState hook can close the connection when it becomes idle.
func (c *Conn) Retired() bool { return c.renewal.retired.Load() }

func (c *Conn) tellRetired() {
	if f := c.server.options.Retired; f != nil {
		f(c)
	}
}

// ErrRetired is returned by Read if [Options] ask for it, see Options.InterruptRetired.
// Like a timeout it does no harm: the next Read goes on where this one has stopped.
var ErrRetired net.Error = retiredError{}

type retiredError struct{}

func (retiredError) Error() string   { return "ktls: connection retired" }
func (retiredError) Timeout() bool   { return true }
func (retiredError) Temporary() bool { return true }

// rekeys knows, for each cipher and local address, whether the key of a connection can be
// replaced. The kernel can do it if the probe says so. But a network card that encrypts
// may refuse, so the first connection of each kind tries. As a rule, connections of one
// kind leave by the same card. If one of them leaves by another card, and that card
// refuses, a KeyUpdate ends that connection but no other.
type rekeys struct {
	mu    sync.Mutex
	known map[rekeyKind]bool
}

type rekeyKind struct {
	address netip.Addr
	cipher  uint16 // as in the kernel's crypto info
}

// maxRekeys limits what is remembered, because a machine may have any number of
// addresses.
const maxRekeys = 1000

// ask reports whether try succeeds for a connection, or has succeeded before for one of
// its kind.
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

// saysNoRekey reports whether an error says something about the kernel or the card. That
// memory is short, or the connection is gone, says nothing about them.
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
