package ktls

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A Conn is the server's side of a TLS connection. crypto/tls shakes hands and
// receives; it also sends, until the connection is offloaded: then the kernel
// encrypts what is sent, and files go out by sendfile(2).
//
// A Conn may be used as any net.Conn: reads, writes and Close may run at the
// same time.
type Conn struct {
	tls    *tls.Conn
	raw    net.Conn
	rec    *recorder
	kernel kernel // nil if the connection can't be offloaded
	server *Server

	handshake sync.Mutex
	ready     atomic.Bool // the handshake is complete

	reason  atomic.Uint32 // a Reason
	decided sync.Once

	// out is held by whoever sends. Order of locks: out, crypto/tls's own,
	// rec.mu. crypto/tls is never called with rec.mu held.
	out      sync.Mutex
	armed    bool  // move after the next write
	open     bool  // the last record may be open
	err      error // of a failed send after the switch; sticky
	notified bool  // close_notify is sent

	// How many records the kernel may have made until the key has to be
	// replaced.
	renewAt uint64

	closed atomic.Bool
}

var (
	errWouldBlock = errors.New("ktls: the send buffer is full")
	errUnfinished = errors.New("ktls: closed in the middle of a file")
	errMultipath  = errors.New("ktls: Multipath TCP")
	errWriteShut  = errors.New("ktls: write after CloseWrite")
	errRekey      = errors.New("ktls: the kernel does not take another key")
)

// HandshakeContext runs the handshake if it has not run yet. Read and Write
// call it. A tls.RecordHeaderError is returned as crypto/tls returns it.
func (c *Conn) HandshakeContext(ctx context.Context) error {
	if c.ready.Load() {
		return nil
	}
	return c.shakeHands(ctx)
}

// shakeHands is apart from what each Read and Write calls, since it takes a lot
// of stack.
func (c *Conn) shakeHands(ctx context.Context) error {
	c.handshake.Lock()
	defer c.handshake.Unlock()
	if c.ready.Load() {
		return nil
	}
	if err := c.tls.HandshakeContext(ctx); err != nil {
		return err
	}
	c.shook()
	return nil
}

func (c *Conn) shook() {
	c.rec.handshakeDone(suiteByID(c.tls.ConnectionState().CipherSuite))
	if c.server.options.Install == AtHandshake {
		c.out.Lock()
		c.move()
		c.unlock()
	}
	c.ready.Store(true)
}

// Handshake is HandshakeContext without a context.
func (c *Conn) Handshake() error { return c.HandshakeContext(context.Background()) }

// ConnectionState returns what was negotiated. It does not run the handshake.
func (c *Conn) ConnectionState() tls.ConnectionState { return c.tls.ConnectionState() }

// Reason returns [Offloaded], or why the connection is not offloaded. It
// changes at most once, from [NotNeeded].
func (c *Conn) Reason() Reason { return Reason(c.reason.Load()) }

// Offload asks for the connection to be offloaded. That happens right after
// the next Write, whose last record proves the sequence number, unless Reason
// tells that it can't be. Asking again does no harm.
func (c *Conn) Offload() {
	if c.Reason() != NotNeeded {
		return
	}
	c.out.Lock()
	defer c.unlock()
	if c.Reason() == NotNeeded {
		c.armed = true
	}
}

// move offloads the connection, or decides that it can't be. c.out is held.
func (c *Conn) move() {
	c.armed = false
	if c.Reason() != NotNeeded {
		return
	}
	state := c.tls.ConnectionState()
	if state.Version < tls.VersionTLS12 {
		c.decide(TLSVersion, nil)
		return
	}
	if !c.server.support.Has(state.CipherSuite) {
		c.decide(Cipher, nil)
		return
	}
	reason, err := c.rec.move(c.install)
	switch {
	case errors.Is(err, errMultipath):
		reason, err = NotTCP, nil
	case errors.Is(err, syscall.ENOTCONN), errors.Is(err, net.ErrClosed): // the peer has reset it
		reason, err = Closing, nil
	case reason == Offloaded:
		c.renewAt = c.firstRenewal()
	}
	c.decide(reason, err)
}

// install gives the kernel the key. As no record has been sent yet, setting the
// same key and number again does no harm, and shows whether this connection's
// key can be replaced: a network card that encrypts may refuse. c.rec.mu is held.
func (c *Conn) install(info []byte, overhead int) error {
	if err := c.kernel.install(info, overhead); err != nil {
		return err
	}
	c.rec.rekey = c.rec.rekey && c.kernel.rekey(info) == nil
	return nil
}

// decide settles the connection's reason for good.
func (c *Conn) decide(reason Reason, err error) {
	c.decided.Do(func() {
		c.reason.Store(uint32(reason))
		if reason != Offloaded {
			c.rec.forget()
		}
		if f := c.server.options.Decided; f != nil {
			f(c, reason, err)
		}
	})
}

// Read reads decrypted data.
func (c *Conn) Read(p []byte) (int, error) {
	if err := c.Handshake(); err != nil {
		return 0, err
	}
	if c.closed.Load() {
		return 0, net.ErrClosed // the socket may be open for the last bytes
	}
	n, err := c.tls.Read(p)
	for errors.Is(err, ErrRetired) {
		call(c.server.options.Retired, c)
		if c.server.options.InterruptRetired {
			break
		}
		n, err = c.tls.Read(p)
	}
	if err != nil && c.closed.Load() {
		err = net.ErrClosed
	}
	return n, err
}

// Write encrypts and sends p, or lets the kernel do it.
func (c *Conn) Write(p []byte) (int, error) {
	if err := c.Handshake(); err != nil {
		return 0, err
	}
	c.out.Lock()
	defer c.unlock()
	if c.Reason() == Offloaded {
		return c.send(p, false)
	}
	if !c.armed {
		return c.tls.Write(p)
	}
	c.rec.setCapture(true)
	n, err := c.tls.Write(p)
	if err == nil && n > 0 {
		c.move()
	}
	c.rec.setCapture(false)
	return n, err
}

// send gives application data to the kernel. c.out is held.
func (c *Conn) send(p []byte, more bool) (int, error) {
	if err := c.flush(); err != nil || len(p) == 0 {
		return 0, err
	}
	n, err := c.kernel.send(p, more)
	c.open = more
	return n, c.fail(err)
}

// fail makes an error of a send after the switch permanent: what the kernel has
// of the data is not known, so nothing may follow.
func (c *Conn) fail(err error) error {
	if err != nil && c.err == nil {
		c.err = err
	}
	return err
}

// flush sends the control records that crypto/tls has left, and replaces a key
// that is worn out, unless a record is open: then data follow that close it, and
// what must not be under another key. c.out is held.
func (c *Conn) flush() error {
	if c.closed.Load() {
		return net.ErrClosed
	}
	if c.err != nil {
		return c.err
	}
	if c.open || !c.controlsDue() {
		return nil
	}
	controls, dead := c.rec.takePending()
	for _, r := range controls {
		if err := c.control(r); err != nil {
			return c.fail(err)
		}
	}
	if dead == nil && c.worn() {
		return c.fail(c.renew())
	}
	return c.fail(dead)
}

// controlsDue reports whether flush has something to do. c.out is held.
func (c *Conn) controlsDue() bool { return c.rec.waiting.Load() || c.worn() }

func (c *Conn) control(r control) error {
	if r.typ == recordHandshake {
		return c.updateKey()
	}
	return c.kernel.sendControl(r.typ, r.body, true)
}

// unlock releases c.out. A control record that crypto/tls left meanwhile finds
// out taken, so whoever releases it sends the record.
func (c *Conn) unlock() {
	c.out.Unlock()
	c.flushControls()
}

// flushControls sends pending control records, unless somebody else is sending
// and so will do it.
func (c *Conn) flushControls() {
	for c.rec.waiting.Load() && c.out.TryLock() {
		err := c.flush() // kept in c.err
		open := c.open
		c.out.Unlock()
		if err != nil || open {
			return
		}
	}
}

// Close sends close_notify, if nothing has failed, and closes the connection.
// It does not wait for a peer that doesn't read: what is still to be sent is
// sent in the background, see [Server.Wait].
func (c *Conn) Close() error {
	if c.closed.Swap(true) {
		return net.ErrClosed
	}
	if c.Reason() != Offloaded {
		c.rec.abandon() // nobody need know what crypto/tls still writes
		err := c.tls.Close()
		c.decide(NotNeeded, nil)
		c.rec.forget()
		return err
	}
	// Whoever is sending is interrupted: no close_notify then.
	if c.out.TryLock() {
		_ = c.raw.SetWriteDeadline(time.Time{})
		known := c.err != nil || c.open // to whoever was sending
		done, _, err := c.finish()
		c.out.Unlock()
		switch {
		case !done && err == nil:
			c.server.drainInBackground(c)
			return nil
		case err != nil && !known && !isGone(err):
			c.server.lost(c, err)
		}
	}
	return c.shut()
}

// isGone reports whether an error says that the peer has left: what it has not
// taken it does not want.
func isGone(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

// finish sends close_notify if it has not been sent and takes no waiting. It is
// done when that is out and the peer has acknowledged everything before it:
// close(2) leaves the rest to TCP, and a peer that is gone need not be waited
// for. An error says that there is no point in waiting. c.out is held.
func (c *Conn) finish() (done bool, q queue, err error) {
	if c.open {
		return false, queue{}, c.fail(errUnfinished)
	}
	if c.err == nil && c.rec.waiting.Load() && errors.Is(c.sendAlerts(), errWouldBlock) {
		q, err = c.kernel.unsent()
		return false, q, err
	}
	if !c.notified && !errors.Is(c.err, errAlertSent) {
		if c.err != nil {
			return false, queue{}, c.err
		}
		err := c.kernel.sendControl(recordAlert, closeNotify[:], false)
		c.notified = err == nil
		if err != nil && !errors.Is(err, errWouldBlock) {
			return false, queue{}, c.fail(err)
		}
	}
	q, err = c.kernel.unsent()
	return err == nil && q.bytes <= c.rec.suite.alertLen() && (c.notified || c.err != nil), q, err
}

// sendAlerts sends alerts that crypto/tls has left and nobody has sent yet, if it
// takes no waiting: they say more than close_notify. c.out is held.
func (c *Conn) sendAlerts() error {
	controls, dead := c.rec.takePending()
	for i, r := range controls {
		if r.typ != recordAlert {
			continue
		}
		if err := c.kernel.sendControl(r.typ, r.body, false); errors.Is(err, errWouldBlock) {
			c.rec.putBack(controls[i:])
			return err
		}
	}
	c.err = dead
	return nil
}

// call calls one of the functions in Options, if it is there.
func call(f func(*Conn), c *Conn) {
	if f != nil {
		f(c)
	}
}

// shut closes the socket at once and forgets the secrets.
func (c *Conn) shut() error {
	err := c.raw.Close()
	c.rec.forget()
	call(c.server.options.Closed, c)
	return err
}

// CloseWrite sends close_notify. The connection can still be read. It does not
// shut down the TCP connection, as (*tls.Conn).CloseWrite doesn't.
func (c *Conn) CloseWrite() error {
	if !c.ready.Load() {
		return c.tls.CloseWrite() // the error for this case
	}
	c.out.Lock()
	defer c.unlock()
	if c.Reason() != Offloaded {
		return c.tls.CloseWrite()
	}
	if c.notified {
		return nil
	}
	if err := c.flush(); err != nil {
		return err
	}
	if c.open {
		return c.fail(errUnfinished)
	}
	if err := c.kernel.sendControl(recordAlert, closeNotify[:], true); err != nil {
		return c.fail(err)
	}
	c.notified = true
	c.err = errWriteShut
	return nil
}

// LocalAddr returns the local address of the TCP connection.
func (c *Conn) LocalAddr() net.Addr { return c.raw.LocalAddr() }

// RemoteAddr returns the peer's address.
func (c *Conn) RemoteAddr() net.Addr { return c.raw.RemoteAddr() }

// SetDeadline sets both deadlines, see net.Conn. After a write that has timed
// out nothing more can be written.
func (c *Conn) SetDeadline(t time.Time) error { return c.raw.SetDeadline(t) }

// SetReadDeadline sets the deadline of reads.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.raw.SetReadDeadline(t) }

// SetWriteDeadline sets the deadline of writes, sendfile included.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.raw.SetWriteDeadline(t) }

// NetConn returns the connection below TLS. Writing to it corrupts the
// connection.
func (c *Conn) NetConn() net.Conn { return c.raw }

var _ net.Conn = (*Conn)(nil)
