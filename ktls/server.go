package ktls

import (
	"context"
	"crypto/tls"
	"net"
	"time"
)

// Options configure a Server. All fields are optional. nil or the zero value stands for
// the defaults.
type Options struct {
	// OffloadAll offloads every connection with its first Write. By default a connection
	// is offloaded when a file is to be sent over it. Until then it behaves, and
	// performs, as without this package.
	OffloadAll bool

	// InterruptRetired makes Read return ErrRetired, once, when a KeyUpdate of the peer
	// retires the connection, see Conn.Retired. It is for callers that read in a loop and
	// have something to do then: package fileserver tells the HTTP/2 server. net/http
	// would take ErrRetired for a failure.
	InterruptRetired bool

	// HandshakeTimeout limits a handshake that [Conn.ConnectionState] runs, as it does
	// for net/http before Go 1.27. Other handshakes are limited by deadlines and the
	// context. Default: a minute. Negative: no limit.
	HandshakeTimeout time.Duration

	// The functions that follow are optional. They are called with no lock held and may
	// use the connection. The goroutine in which the event happens calls them, and waits
	// for them to return. It may be that of a Read, a Write, Close or Accept
	// ([Server.Conn]), or one in the background. So several functions may run at the same
	// time. None should call ConnectionState: the handshake may not have run yet, and
	// Accept would wait for the client.

	// Decided is called once for each connection: when it is offloaded, when it turns out
	// that it can't be, or, with NotNeeded, when it is closed before either.
	Decided func(c *Conn, d Decision)

	// Lost is called when a connection was closed in order, but the peer may not have
	// received everything that was written to it. err is net.ErrClosed if the peer went
	// away, and another error if the peer stopped reading or the kernel has failed. Lost
	// is not called if the peer has gone before Close.
	Lost func(c *Conn, err error)

	// Closed is called once for each connection that was offloaded, when its
	// socket is closed.
	Closed func(c *Conn)

	// KeyUpdated is called when the kernel has received another key for a connection.
	KeyUpdated func(c *Conn)

	// Retired is called once for each connection that should be closed because its key
	// can't be replaced, see Conn.Retired.
	Retired func(c *Conn)

	// Drain, if not nil, counts the connections that are closed in the background, for
	// several Servers together. A program that makes a new Server for each configuration
	// can so wait for the connections of all of them. Default: each Server has its own.
	Drain *Drain
}

// A Decision is the final state of a connection.
type Decision struct {
	State State
	Err   error // the kernel's error, with KernelRefused and KernelUntrusted; otherwise nil

	// As in crypto/tls; zero if the handshake is not complete.
	Version, CipherSuite uint16

	Resumed bool // the handshake has resumed a session
}

// A Server makes TLS connections out of TCP connections. Servers with the same
// configuration share the keys of its session tickets, as listeners do in crypto/tls.
type Server struct {
	config  *tls.Config // as given; connections have clones of it
	options Options
	rekeys  rekeys

	// Changed by tests only.
	supported func() (Support, State)   // what system knows
	distrust  func(error)               // tells system
	newKernel func(*net.TCPConn) kernel // openKernel
	keyLimit  uint64
}

// NewServer returns a Server with a configuration as for tls.NewListener. The
// configuration must not be changed afterwards, except by SetSessionTicketKeys. options
// may be nil. NewServer calls [Probe].
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

// Conn returns the server's side of a TLS connection on raw. The Conn owns raw from then
// on. The handshake runs with the first Read or Write. Only a *net.TCPConn can be
// offloaded. Any other connection works as with tls.Server.
func (s *Server) Conn(raw net.Conn) *Conn { return s.conn(raw, true) }

// conn is Conn for a caller that speaks HTTP/2, or one that doesn't.
func (s *Server) conn(raw net.Conn, http2 bool) *Conn {
	c := &Conn{raw: raw, server: s}
	c.handshake.ctx = context.Background()
	c.renewal.limit = s.keyLimit
	c.tap = newTap(raw, c.flushInRead)
	_, state := s.supported()
	if state == NotNeeded {
		state = NotTCP
		if tcp, ok := raw.(*net.TCPConn); ok {
			c.kernel = s.newKernel(tcp)
		}
	}
	if c.kernel == nil {
		c.tls = tls.Server(raw, s.configFor(nil, http2))
		c.decide(state)
		c.tellDecided(state, nil)
		return c
	}
	c.tls = tls.Server(c.tap, s.configFor(&c.tap.counter, http2))
	c.asked.Store(s.options.OffloadAll)
	return c
}

// handshakeTimeout is Caddy's own limit for reading a request's header, including the
// handshake.
const handshakeTimeout = time.Minute
