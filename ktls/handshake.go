package ktls

import (
	"context"
	"crypto/tls"
	"sync"
	"sync/atomic"
)

// A handshakeState is what a Conn knows of its handshake.
type handshakeState struct {
	ctx  context.Context // for a handshake that Read or Write starts
	mu   sync.Mutex      // held while the end of the handshake is noted
	done atomic.Bool     // the handshake is complete

	resumed    atomic.Bool   // it has resumed a session
	negotiated atomic.Uint32 // version and cipher suite, once it is complete
}

// version returns what was negotiated, or zeros before the end of the handshake.
func (h *handshakeState) version() (version, cipherSuite uint16) {
	n := h.negotiated.Load()
	return uint16(n >> 16), uint16(n)
}

// SetContext sets the context of a handshake that Read, Write or ConnectionState starts.
// The configuration's callbacks get it from tls.ClientHelloInfo. If the context is done
// before the handshake is, the connection is closed. SetContext must be called before the
// connection is used. Default: context.Background().
func (c *Conn) SetContext(ctx context.Context) { c.handshake.ctx = ctx }

// HandshakeContext runs the handshake if it has not run yet. Read and Write
// call it. A tls.RecordHeaderError is returned as crypto/tls returns it.
func (c *Conn) HandshakeContext(ctx context.Context) error {
	if c.handshake.done.Load() {
		return nil
	}
	return c.shakeHands(ctx)
}

// shakeHands is a function of its own, apart from what each Read and Write calls, because
// it takes a lot of stack.
func (c *Conn) shakeHands(ctx context.Context) error {
	if err := c.tls.HandshakeContext(ctx); err != nil {
		return err
	}
	c.afterHandshake()
	return nil
}

// afterHandshake notes that the handshake is complete.
func (c *Conn) afterHandshake() {
	h := &c.handshake
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done.Load() {
		return
	}
	state := c.tls.ConnectionState()
	h.resumed.Store(state.DidResume)
	h.negotiated.Store(uint32(state.Version)<<16 | uint32(state.CipherSuite))
	c.tap.counter.handshakeDone(suiteByID(state.CipherSuite))
	h.done.Store(true)
}

// Handshake is HandshakeContext with the connection's own context, see SetContext.
func (c *Conn) Handshake() error { return c.HandshakeContext(c.handshake.ctx) }

// ConnectionState returns what was negotiated. Unlike in crypto/tls, it runs the
// handshake if it has not run yet, with the context of SetContext, because net/http
// before Go 1.27 asks for the state before it reads. So it may wait for the client, for
// as long as [Options].HandshakeTimeout allows. If the handshake fails, HandshakeComplete
// is false, and Read and Write return errors.
func (c *Conn) ConnectionState() tls.ConnectionState {
	if !c.handshake.done.Load() {
		c.shakeHandsInTime()
	}
	return c.tls.ConnectionState()
}

// shakeHandsInTime runs the handshake for a caller that can't limit its time. The next
// Read or Write returns the error again.
func (c *Conn) shakeHandsInTime() {
	ctx := c.handshake.ctx
	if timeout := c.server.options.HandshakeTimeout; timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	_ = c.HandshakeContext(ctx)
}
