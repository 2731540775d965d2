package ktls

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"
)

// Options are optional; nil or the zero value stands for the defaults.
type Options struct {
	// OffloadAll offloads every connection with its first Write. By default a
	// connection is offloaded when a file is to be sent over it; until then it
	// behaves, and performs, as without this package.
	OffloadAll bool

	// InterruptRetired has Read return ErrRetired, once, when a KeyUpdate
	// of the peer retires the connection, see Conn.Retired.
	InterruptRetired bool

	// HandshakeTimeout bounds a handshake that [Conn.ConnectionState] runs,
	// as net/http before Go 1.27 has it do. Other handshakes are bounded by
	// deadlines and the context. Default: a minute. Negative: no bound.
	HandshakeTimeout time.Duration

	// The functions that follow are optional. They are called with no lock
	// held and may use the connection. Each is called by the goroutine in
	// which it happens: that of a Read, a Write or a handshake, which waits for
	// it to return, that of Close, that of Accept ([Server.Conn]), or one in the
	// background. So several may run at the same time. None should call
	// ConnectionState: the handshake may not have run, and Accept would wait for
	// the client.

	// Decided is called once for each connection: when it is offloaded, when
	// it is clear that it can't be, or, with NotNeeded, when it is closed before
	// either.
	Decided func(c *Conn, d Decision)

	// Lost is called when the peer has not acknowledged all that Write and
	// SendFile had accepted, although the connection was closed in an orderly
	// way, or may not have, because its end could not be sent. err is
	// net.ErrClosed if the peer went away, perhaps with all of it (if it has
	// gone before Close, Lost is not called), and something else if it stopped
	// reading or the kernel has failed.
	Lost func(c *Conn, err error)

	// Closed is called once for each connection that was offloaded, when its
	// socket is closed.
	Closed func(c *Conn)

	// KeyUpdated is called when the kernel has got another key for a
	// connection.
	KeyUpdated func(c *Conn)

	// Retired is called once for each connection that is to be closed because
	// its key can't be replaced, see Conn.Retired.
	Retired func(c *Conn)

	// Drain, if not nil, counts the connections that are closed in the
	// background, for several Servers together. Default: one of its own.
	Drain *Drain
}

// A Decision is the final state of a connection.
type Decision struct {
	State State
	Err   error // the kernel's, with KernelRefused and KernelUntrusted; else nil

	// As in crypto/tls; zero if the handshake is not complete.
	Version, CipherSuite uint16
}

// A Server makes TLS connections out of TCP connections. Servers with the same
// configuration share the keys of its session tickets, as listeners do in crypto/tls.
type Server struct {
	config  *tls.Config // as given: connections have clones of it
	options Options
	rekeys  rekeys

	// Changed by tests only.
	supported func() (Support, State)   // what system knows
	distrust  func(error)               // tells system
	newKernel func(*net.TCPConn) kernel // openKernel
	keyLimit  uint64
}

// NewServer returns a Server with a configuration as for tls.NewListener, which
// must not be changed afterwards, but by SetSessionTicketKeys. options may be nil.
// It calls [Probe].
func NewServer(config *tls.Config, options *Options) *Server {
	if config == nil {
		config = new(tls.Config)
	}
	s := &Server{
		config: config, supported: system.supported, distrust: system.distrust,
		newKernel: openKernel, keyLimit: keyLimit,
	}
	if options != nil {
		s.options = *options
	}
	if s.options.HandshakeTimeout == 0 {
		s.options.HandshakeTimeout = handshakeTimeout
	}
	if s.options.Drain == nil {
		s.options.Drain = new(Drain)
	}
	_, _ = Probe()
	return s
}

// Conn returns the server's side of a TLS connection on raw, which it owns from
// then on. The handshake runs with the first Read or Write. Only a *net.TCPConn
// can be offloaded; any other connection works as with tls.Server.
func (s *Server) Conn(raw net.Conn) *Conn { return s.conn(raw, true) }

// conn is Conn for a user who speaks HTTP/2, or doesn't.
func (s *Server) conn(raw net.Conn, http2 bool) *Conn {
	c := &Conn{raw: raw, server: s, ctx: context.Background()}
	support, reason := s.supported()
	c.rec = &recorder{Conn: raw, flush: c.flushInRead, rekey: support.Rekey, hellos: new(hellos)}
	if reason == NotNeeded {
		reason = NotTCP
		if tcp, ok := raw.(*net.TCPConn); ok {
			c.kernel = s.newKernel(tcp)
		}
	}
	if c.kernel == nil {
		c.tls = tls.Server(raw, s.configFor(nil, http2))
		c.decide(reason)
		c.tellDecided(reason, nil)
		return c
	}
	c.tls = tls.Server(c.rec, s.configFor(c.rec, http2))
	c.armed.Store(s.options.OffloadAll)
	return c
}

// handshakeTimeout is Caddy's own limit for a request's header, the handshake
// included.
const handshakeTimeout = time.Minute

// drainTimeout is how long a closed connection may go without progress before
// it is given up: Caddy's own limit for a write that stalls.
const drainTimeout = time.Minute

// drainLimit is how long a closed connection is kept open at all.
const drainLimit = time.Hour

// errStalled ends the closing of a connection whose peer stopped reading.
var errStalled = errors.New("ktls: peer does not take what was sent before close")

// drainInBackground closes the socket when the peer has acknowledged everything.
//
// A record that does not fit TCP's queue waits in the TLS layer, from where
// close(2) and shutdown(2) drop it, though sendfile(2) and sendmsg(2) have
// reported success.
func (s *Server) drainInBackground(c *Conn) {
	// Wake a Read that is blocked: to its caller the connection is closed.
	_ = c.raw.SetReadDeadline(time.Unix(1, 0))
	s.options.Drain.add(1)
	go func() {
		defer s.options.Drain.add(-1)
		if err := drain(c); err != nil {
			s.lost(c, err)
		}
		_ = c.shut()
	}()
}

func (s *Server) lost(c *Conn, err error) {
	if s.options.Lost != nil {
		s.options.Lost(c, err)
	}
}

func drain(c *Conn) error {
	begin := time.Now()
	progress := begin
	var acked uint64
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		time.Sleep(pause)
		// A reader may be stuck with an alert for a peer that doesn't read.
		if c.out.TryLock() {
			known := c.known()
			done, err := c.finish()
			callAll(c.release())
			if done || known && err != nil {
				return nil
			}
			if err != nil {
				return err
			}
		}
		if now, err := c.kernel.acked(); err != nil {
			return err
		} else if now != acked {
			acked, progress = now, time.Now()
		}
		if time.Since(progress) > drainTimeout || time.Since(begin) > drainLimit {
			return errStalled
		}
	}
}

// Wait waits for the Server's connections that were closed but still have data
// to send, see [Drain.Wait].
func (s *Server) Wait(ctx context.Context) error { return s.options.Drain.Wait(ctx) }

// A Drain counts the connections that were closed but still have data to send,
// see [Conn.Close]. It is no sync.WaitGroup, because connections are closed while
// somebody waits, or has given up waiting. The zero value is ready for use.
type Drain struct {
	mu   sync.Mutex
	n    int
	idle chan struct{} // closed when n gets 0; nil if nobody waits
}

// Wait waits until there are none, at most until ctx is done, whose error it
// returns then. A process that is to exit calls it.
func (d *Drain) Wait(ctx context.Context) error {
	select {
	case <-d.none():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *Drain) add(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.n += n
	if d.n == 0 && d.idle != nil {
		close(d.idle)
		d.idle = nil
	}
}

// none returns a channel that is closed when no connection is drained.
func (d *Drain) none() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.n == 0 {
		done := make(chan struct{})
		close(done)
		return done
	}
	if d.idle == nil {
		d.idle = make(chan struct{})
	}
	return d.idle
}
