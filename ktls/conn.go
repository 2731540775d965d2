package ktls

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
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

	ctx        context.Context // of handshakes that Read and Write begin
	handshake  sync.Mutex      // held while the end of the handshake is noted
	ready      atomic.Bool     // the handshake is complete
	negotiated atomic.Uint32   // version and cipher suite, from then on

	decision atomic.Uint32 // a State, with isDecided once it is final

	// out is held by whoever sends. Order of locks: out, crypto/tls's own,
	// rec.wire, rec.mu. crypto/tls is never called with the latter two held, and
	// none of the Options with any.
	out      sync.Mutex
	open     bool     // the last record may be open
	err      error    // of a failed send after the switch; sticky
	told     bool     // a call of the connection's user has returned err
	notified bool     // close_notify is sent
	notices  []func() // calls of the Options that wait until out is released

	armed atomic.Bool // move after the next write
	due   atomic.Bool // there are notices that wait for Read to return

	// How many records the kernel may have made until the key has to be
	// replaced.
	renewAt uint64

	// Close takes no lock that is held while something waits: these tell it
	// what goes on.
	closed   atomic.Bool
	calls    atomic.Int32 // by the connection's user, to send: Close interrupts them
	deadline writeDeadline
}

// isDecided is set in Conn.decision when the reason is final.
const isDecided = 1 << 8

var (
	errWouldBlock = errors.New("ktls: the send buffer is full")
	errUnfinished = errors.New("ktls: closed in the middle of a file")
	errMultipath  = errors.New("ktls: Multipath TCP")
	errWriteShut  = errors.New("ktls: write after CloseWrite")
	errRekey      = errors.New("ktls: the kernel does not take another key")
)

// SetContext sets the context of a handshake that Read, Write or ConnectionState
// begins; the configuration's callbacks get it by tls.ClientHelloInfo. When it is done before
// the handshake is, the connection is closed. It must be called before the
// connection is used. Default: context.Background().
func (c *Conn) SetContext(ctx context.Context) { c.ctx = ctx }

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
	if err := c.tls.HandshakeContext(ctx); err != nil {
		return err
	}
	c.afterHandshake()
	return nil
}

// afterHandshake notes that the handshake is complete.
func (c *Conn) afterHandshake() {
	c.handshake.Lock()
	defer c.handshake.Unlock()
	if c.ready.Load() {
		return
	}
	state := c.tls.ConnectionState()
	c.negotiated.Store(uint32(state.Version)<<16 | uint32(state.CipherSuite))
	c.rec.handshakeDone(suiteByID(state.CipherSuite))
	c.ready.Store(true)
}

// Handshake is HandshakeContext with the connection's own context, see SetContext.
func (c *Conn) Handshake() error { return c.HandshakeContext(c.ctx) }

// ConnectionState returns what was negotiated. Other than in crypto/tls it runs
// the handshake if it has not run yet, with the context of SetContext, because
// net/http before Go 1.27 asks for the state before it reads. So it may wait for
// the client, as long as [Options].HandshakeTimeout allows. If the handshake fails,
// HandshakeComplete is false, and Read and Write return errors.
func (c *Conn) ConnectionState() tls.ConnectionState {
	if !c.ready.Load() {
		c.shakeHandsInTime()
	}
	return c.tls.ConnectionState()
}

// shakeHandsInTime runs the handshake for a caller that can't bound it. Its error
// comes again with the next Read or Write.
func (c *Conn) shakeHandsInTime() {
	ctx := c.ctx
	if timeout := c.server.options.HandshakeTimeout; timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	_ = c.HandshakeContext(ctx)
}

// State returns [Offloaded], or why the connection is not offloaded. It
// changes at most once, from [NotNeeded].
func (c *Conn) State() State { return State(c.decision.Load() &^ isDecided) }

// Offload asks for the connection to be offloaded. That happens right after
// the next Write, whose last record proves the sequence number, unless State
// tells that it can't be. Asking again does no harm.
func (c *Conn) Offload() {
	if c.State() != NotNeeded {
		return
	}
	c.armed.Store(true)
}

// move offloads the connection, or decides that it can't be. c.out is held.
func (c *Conn) move() {
	c.armed.Store(false)
	if c.State() != NotNeeded {
		return
	}
	reason, err := c.offload()
	if reason == Offloaded {
		c.renewAt = c.firstRenewal()
	}
	if c.decide(reason) {
		c.notices = append(c.notices, func() { c.tellDecided(reason, err) })
	}
	if errors.Is(err, errDoubtful) {
		_ = c.raw.Close() // and nothing more is written, see recorder.move
	}
}

// offload gives the connection to the kernel if it can be. c.out is held.
func (c *Conn) offload() (State, error) {
	negotiated := c.negotiated.Load()
	if negotiated>>16 < tls.VersionTLS12 {
		return TLSVersion, nil
	}
	support, reason := c.server.supported()
	if reason != NotNeeded {
		return reason, nil
	}
	if !support.Has(uint16(negotiated)) {
		return Cipher, nil
	}
	reason, err := c.rec.move(c.install)
	switch {
	case errors.Is(err, errMultipath):
		return NotTCP, nil
	case errors.Is(err, errInert), errors.Is(err, errDoubtful):
		c.server.distrust(err)
		return KernelUntrusted, err
	case errors.Is(err, syscall.ENOTCONN), errors.Is(err, net.ErrClosed): // the peer has reset it
		return Closing, nil
	}
	return reason, err
}

// install gives the kernel the key. As no record has been sent yet, setting the
// same key and number again does no harm, and shows whether this connection's
// key can be replaced: a network card that encrypts may refuse. c.out is held.
func (c *Conn) install(s *suite, info []byte) (rekey bool, err error) {
	if err := c.kernel.install(info, s.overhead()); err != nil {
		return false, err
	}
	rekey = s.version == tls.VersionTLS13 && c.rec.rekey &&
		c.server.rekeys.ask(c.raw.LocalAddr(), s, func() error { return c.kernel.rekey(info) })
	return rekey, nil
}

// decide settles the connection's reason for good, and reports whether it was
// not settled before. Whoever gets true calls tellDecided, with no lock held.
func (c *Conn) decide(reason State) bool {
	if !c.decision.CompareAndSwap(uint32(NotNeeded), isDecided|uint32(reason)) {
		return false
	}
	if reason != Offloaded {
		c.rec.forget()
	}
	return true
}

func (c *Conn) tellDecided(reason State, err error) {
	if f := c.server.options.Decided; f != nil {
		negotiated := c.negotiated.Load()
		f(c, Decision{
			State: reason, Err: err,
			Version: uint16(negotiated >> 16), CipherSuite: uint16(negotiated),
		})
	}
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
		c.tellRetired()
		if c.server.options.InterruptRetired {
			break
		}
		n, err = c.tls.Read(p)
	}
	// Whoever has c.out now calls what is due.
	if c.due.Swap(false) && c.out.TryLock() {
		callAll(c.release())
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
	c.lock()
	defer c.unlock()
	if c.State() == Offloaded {
		return c.send(p, false)
	}
	if !c.armed.Load() {
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
		return 0, c.fail(err)
	}
	n, err := c.kernel.send(p, more)
	c.open = more
	return n, c.fail(err)
}

// fail makes an error of a send after the switch permanent: what the kernel has
// of the data is not known, so nothing may follow. After Close nothing but its end
// follows anyhow, which a call that comes too late must not hinder.
func (c *Conn) fail(err error) error {
	if err != nil && c.err == nil && !c.closed.Load() {
		c.err = err
	}
	return err
}

// flush sends the control records that crypto/tls has left, and replaces a key
// that is worn out, unless a record is open: then data follow that close it, and
// what must not be under another key. After a deadline that passed nothing was sent,
// and flush can be tried again; other errors are permanent. c.out is held.
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
	for i, r := range controls {
		err := c.control(r)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			c.rec.putBack(controls[i:])
			return err
		}
		if err != nil {
			return c.fail(err)
		}
	}
	if dead != nil || !c.worn() {
		return c.fail(dead)
	}
	err := c.renew()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return c.fail(err)
}

// controlsDue reports whether flush has something to do. c.out is held.
func (c *Conn) controlsDue() bool { return c.rec.waiting.Load() || c.worn() }

func (c *Conn) control(r control) error {
	if r.typ == recordHandshake {
		return c.updateKey()
	}
	return c.kernel.sendControl(r.typ, r.body, true)
}

// lock takes c.out for a call that sends in the name of the connection's user.
func (c *Conn) lock() {
	c.calls.Add(1)
	c.out.Lock()
}

// unlock ends such a call. A control record that crypto/tls left meanwhile finds
// out taken, so whoever releases it sends the record.
func (c *Conn) unlock() {
	c.told = c.told || c.err != nil
	notices := c.release()
	c.calls.Add(-1)
	callAll(notices)
	c.flushControls()
}

// release releases c.out, and returns what is to be called then.
func (c *Conn) release() (notices []func()) {
	notices, c.notices = c.notices, nil
	c.out.Unlock()
	return notices
}

func callAll(notices []func()) {
	for _, f := range notices {
		f()
	}
}

// flushControls sends pending control records, unless somebody else is sending
// and so will do it. An error shows in the next call, or in Close.
func (c *Conn) flushControls() {
	for c.rec.waiting.Load() && c.out.TryLock() {
		goOn := c.flush() == nil && !c.open
		callAll(c.release())
		if !goOn {
			return
		}
	}
}

// flushInRead is flushControls while crypto/tls reads, under its locks: no function
// of the Options may be called here.
func (c *Conn) flushInRead() {
	for c.rec.waiting.Load() && c.out.TryLock() {
		goOn := c.flush() == nil && !c.open
		c.due.Store(len(c.notices) > 0)
		c.out.Unlock()
		if !goOn {
			return
		}
	}
}

// Close sends close_notify, if nothing has failed, and closes the connection.
// Calls of Write, ReadFrom, SendFile and CloseWrite that are under way are
// interrupted, and the connection ends without close_notify then.
//
// Close waits for nobody: what is still to be sent is sent in the background, see
// [Server.Wait]. Only a connection that is not offloaded may take 5 seconds for
// close_notify, as in crypto/tls, and 5 more if a Read is answering a KeyUpdate. A SendFile that waits for a disk
// goes on waiting, and keeps the descriptor for so long, but the peer sees the end
// at once.
func (c *Conn) Close() error {
	if c.closed.Swap(true) {
		return net.ErrClosed
	}
	c.deadline.wake()
	if c.decide(NotNeeded) {
		defer c.tellDecided(NotNeeded, nil)
	}
	if c.State() != Offloaded {
		// Nobody need know what crypto/tls still writes. If the connection
		// is being offloaded at this moment, it will be of no use.
		c.rec.abandoned.Store(true)
		// crypto/tls waits for a reader that answers a KeyUpdate, without a
		// bound of its own.
		_ = c.raw.SetWriteDeadline(time.Now().Add(closeTimeout))
		err := c.tls.Close()
		c.rec.forget()
		return err
	}
	if !c.out.TryLock() {
		if c.calls.Load() > 0 {
			return c.interrupt()
		}
		// An answer to a KeyUpdate, or an alert, is waiting for room. It is of
		// no more use, other than what was accepted before.
		_ = c.raw.SetWriteDeadline(time.Unix(1, 0))
		c.server.drainInBackground(c)
		return nil
	}
	known := c.known()
	done, err := c.finish()
	callAll(c.release())
	switch {
	case !done && err == nil:
		c.server.drainInBackground(c)
		return nil
	case err != nil && !known && !isGone(err):
		c.server.lost(c, err)
	}
	return c.shut()
}

// interrupt closes the socket under whoever is sending. A system call that waits
// for a disk keeps the socket until it returns, so that is not waited for.
func (c *Conn) interrupt() error {
	if tcp, ok := c.raw.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
	}
	c.rec.forget()
	go func() { _ = c.shut() }()
	return nil
}

// known reports whether the connection's user has been told that it does not end in
// order. c.out is held.
func (c *Conn) known() bool { return c.told && !errors.Is(c.err, errWriteShut) || c.open }

// isGone reports whether an error says that the peer has left: what it has not
// taken it does not want.
func isGone(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

// finish sends close_notify if it has not been sent and takes no waiting. It is
// done when that is out and the peer has acknowledged everything before it:
// close(2) leaves the rest to TCP, and a peer that is gone need not be waited
// for. An error says that there is no point in waiting. c.out is held.
func (c *Conn) finish() (done bool, err error) {
	_ = c.raw.SetWriteDeadline(time.Time{}) // it was about something else
	if c.open {
		return false, c.fail(errUnfinished)
	}
	fine := c.err == nil || errors.Is(c.err, errWriteShut)
	full := fine && !c.notified && c.rec.waiting.Load() && errors.Is(c.sendAlerts(), errWouldBlock)
	if !full && !c.notified && !errors.Is(c.err, errAlertSent) {
		if c.err != nil && !errors.Is(c.err, errWriteShut) {
			return false, c.err
		}
		err := c.kernel.sendControl(recordAlert, closeNotify[:], false)
		full = errors.Is(err, errWouldBlock)
		if err != nil && !full {
			return false, c.fail(err)
		}
		c.notified = !full
	}
	unsent, err := c.kernel.unsent()
	return err == nil && !full && unsent <= c.rec.suite.alertLen(), err
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
	if dead != nil {
		c.err = dead
	}
	return nil
}

// shut closes the socket at once and forgets the secrets.
func (c *Conn) shut() error {
	err := c.raw.Close()
	c.rec.forget()
	if f := c.server.options.Closed; f != nil {
		f(c)
	}
	return err
}

// closeTimeout bounds how long close_notify is waited for, as in crypto/tls.
const closeTimeout = 5 * time.Second

// CloseWrite sends close_notify, for which it waits up to 5 seconds; after that Close
// sends it. The connection can still be read. It does not shut down the TCP connection,
// as (*tls.Conn).CloseWrite doesn't.
func (c *Conn) CloseWrite() error {
	c.lock()
	defer c.unlock()
	if c.State() != Offloaded {
		return c.tls.CloseWrite()
	}
	if c.notified {
		return nil
	}
	_ = c.raw.SetWriteDeadline(time.Now().Add(closeTimeout))
	err := c.flush()
	if c.err != nil && !errors.Is(c.err, errWriteShut) {
		return c.err
	}
	if c.open {
		return c.fail(errUnfinished)
	}
	if err == nil || errors.Is(err, errWriteShut) {
		err = c.kernel.sendControl(recordAlert, closeNotify[:], true)
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return c.fail(err)
	}
	c.notified = err == nil
	c.err = errWriteShut // also if it is sent later
	return err
}

// LocalAddr returns the local address of the TCP connection.
func (c *Conn) LocalAddr() net.Addr { return c.raw.LocalAddr() }

// RemoteAddr returns the peer's address.
func (c *Conn) RemoteAddr() net.Addr { return c.raw.RemoteAddr() }

// SetDeadline sets both deadlines, see net.Conn. After a write that has timed
// out nothing more can be written.
func (c *Conn) SetDeadline(t time.Time) error {
	c.deadline.set(t)
	return c.raw.SetDeadline(t)
}

// SetReadDeadline sets the deadline of reads.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.raw.SetReadDeadline(t) }

// SetWriteDeadline sets the deadline of writes, sendfile included.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.deadline.set(t)
	return c.raw.SetWriteDeadline(t)
}

// NetConn returns the connection below TLS. Writing to it corrupts the
// connection.
func (c *Conn) NetConn() net.Conn { return c.raw }

var _ net.Conn = (*Conn)(nil)
