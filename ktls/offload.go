package ktls

import (
	"crypto/tls"
	"errors"
	"net"
	"syscall"
)

// isDecided is set in Conn.decision when the state is final.
const isDecided = 1 << 8

// State returns [Offloaded], or why the connection is not offloaded. It
// changes at most once, from [NotNeeded].
func (c *Conn) State() State { return State(c.decision.Load() &^ isDecided) }

// Offload asks for the connection to be offloaded. That happens right after the next
// Write, whose last record proves the sequence number, unless State says that it can't be
// done. Asking again does no harm.
func (c *Conn) Offload() {
	if c.State() == NotNeeded {
		c.asked.Store(true)
	}
}

// writeAndOffload does the write that proves the sequence number, and then the offload.
// Caller holds c.out.
func (c *Conn) writeAndOffload(p []byte) (int, error) {
	c.tap.counter.setCapture(true)
	n, err := c.tls.Write(p)
	if err == nil && n > 0 {
		c.offload()
	}
	c.tap.counter.setCapture(false)
	return n, err
}

// offload offloads the connection, or decides that it stays with crypto/tls. Caller holds
// c.out.
func (c *Conn) offload() {
	c.asked.Store(false)
	if c.State() != NotNeeded {
		return
	}
	state, err := c.tryOffload()
	if c.decide(state) {
		c.out.notices = append(c.out.notices, func() { c.tellDecided(state, err) })
	}
	if errors.Is(err, errDoubtful) {
		_ = c.raw.Close() // nothing more is written either, see tap.offload
	}
}

// tryOffload tries the offload. It returns the state that comes of it, and the kernel's
// error if that is the reason. Caller holds c.out.
func (c *Conn) tryOffload() (State, error) {
	version, cipherSuite := c.handshake.version()
	if version < tls.VersionTLS12 {
		return TLSVersion, nil
	}
	support, state := c.server.supported()
	if state != NotNeeded {
		return state, nil
	}
	if !support.Has(cipherSuite) {
		return Cipher, nil
	}
	state, err := c.tap.offload(&c.renewal, func(s *suite, info []byte) (bool, error) {
		return c.setKey(s, info, support.Rekey)
	})
	switch {
	case err == nil:
		return state, nil
	case errors.Is(err, errMultipath):
		return NotTCP, nil
	case errors.Is(err, errInert), errors.Is(err, errDoubtful):
		c.server.distrust(err)
		return KernelUntrusted, err
	case errors.Is(err, syscall.ENOTCONN), errors.Is(err, net.ErrClosed): // the peer has reset it
		return Closing, nil
	}
	return KernelRefused, err
}

// setKey gives the kernel the key. Then it sets the same key and sequence number again,
// to find out whether this connection's key can be replaced: a network card that encrypts
// may refuse. That does no harm, because no record has been sent yet. mayRekey says
// whether it is worth a try. Caller holds c.out.
func (c *Conn) setKey(s *suite, info []byte, mayRekey bool) (rekey bool, err error) {
	if err := c.kernel.setKey(info, s.overhead()); err != nil {
		return false, err
	}
	rekey = s.version == tls.VersionTLS13 && mayRekey &&
		c.server.rekeys.ask(c.raw.LocalAddr(), s, func() error { return c.kernel.rekey(info) })
	return rekey, nil
}

// decide settles the connection's state for good, and reports whether it was still open.
// Whoever gets true calls tellDecided, with no lock held.
func (c *Conn) decide(state State) bool {
	if !c.decision.CompareAndSwap(uint32(NotNeeded), isDecided|uint32(state)) {
		return false
	}
	if state != Offloaded {
		c.forget()
	}
	return true
}

func (c *Conn) tellDecided(state State, err error) {
	if f := c.server.options.Decided; f != nil {
		version, cipherSuite := c.handshake.version()
		f(c, Decision{
			State: state, Err: err, Version: version, CipherSuite: cipherSuite, Resumed: c.handshake.resumed.Load(),
		})
	}
}

// forget zeroes the secrets. From then on the connection can't be offloaded. If it has
// been, crypto/tls can't write, and the key can't be replaced.
func (c *Conn) forget() {
	c.tap.forget()
	c.renewal.forget()
}
