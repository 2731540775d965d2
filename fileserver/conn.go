package fileserver

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/internal/http2body"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// A Conn is a TLS connection that speaks HTTP. net/http does not see a
// *tls.Conn any more, so Conn does what net/http does for one: it limits and
// logs the handshake, answers plain HTTP, and holds the client to the protocol
// that it negotiated.
//
// And it lets a response send a file by net/http's ordinary Write: the writer
// announces a file, writes a placeholder of its length, and Conn recognises the
// placeholder by its address and sends the file instead. Over HTTP/2 package
// http2body stands between it and the server.
type Conn struct {
	tls      *ktls.Conn
	server   *Server
	listener *listener // that has accepted it
	addr     localAddr

	handshake    sync.Once
	handshakeErr error

	known    bool // to an HTTP/2 server that stops, see listener.Close
	protocol protocolCheck
	frames   atomic.Pointer[http2body.Conn] // of HTTP/2, from the handshake on
	goAway   sync.Once
	idle     atomic.Int32 // an idleness

	mu           sync.Mutex // guards what follows
	announcement announcement
	held         []byte         // written after an announcement, to go out with the file
	sent         filerange.Sent // of the last announcement
	unclaimed    int64          // bytes of it that have gone out before their placeholder
	writeErr     error          // of the write over HTTP/1.1 after which nothing may follow
}

var (
	errProtocol      = errors.New("fileserver: client does not speak the negotiated protocol")
	errInsecureHTTP2 = errors.New("fileserver: HTTP/2 with an inadequate TLS version or cipher suite")
)

func newConn(c *ktls.Conn, l *listener) *Conn {
	conn := &Conn{tls: c, server: l.server, listener: l}
	conn.addr = localAddr{c.LocalAddr(), conn}
	return conn
}

// Read implements net.Conn. A failed handshake is a read error, so that
// net/http does not answer it.
func (c *Conn) Read(p []byte) (int, error) {
	c.handshake.Do(c.shakeHands)
	if c.handshakeErr != nil {
		return 0, c.handshakeErr
	}
	if c.protocol.http2 {
		return c.readFrames(p)
	}
	for {
		n, err := c.tls.Read(p)
		if errors.Is(err, ktls.ErrRetired) {
			c.retired()
			continue
		}
		if !c.protocol.accept(p[:n]) {
			return 0, c.refuse()
		}
		return n, err
	}
}

// readFrames reads the frames of an HTTP/2 client.
func (c *Conn) readFrames(p []byte) (int, error) {
	for frames := c.frames.Load(); ; {
		if c.tls.Retired() || c.known && !frames.Begun() && c.listener.closed.Load() {
			c.goAway.Do(c.insertGoAway)
		}
		n, err := frames.Read(p)
		if errors.Is(err, ktls.ErrRetired) {
			continue
		}
		if !c.protocol.accept(p[:n]) {
			return 0, c.refuse()
		}
		return n, err
	}
}

// refuse ends a connection whose client does not keep to the protocol.
func (c *Conn) refuse() error {
	_ = c.Close()
	return c.readError(errProtocol)
}

// shakeHands does what net/http does in (*conn).serve for a *tls.Conn.
func (c *Conn) shakeHands() {
	timeouts := c.server.Timeouts
	if d := timeouts.handshake(); d > 0 {
		_ = c.tls.SetDeadline(time.Now().Add(d))
	}
	if err := c.tls.Handshake(); err != nil {
		c.handshakeErr = c.readError(err)
		c.server.handshakeFailed(c.RemoteAddr(), refusePlainHTTP(err))
		return
	}
	c.handshakeErr = c.shook()
}

// shook does what is due after the handshake. It is apart because the handshake
// needs the stack.
func (c *Conn) shook() error {
	c.known = !c.listener.closed.Load()
	timeouts := c.server.Timeouts
	_ = c.tls.SetDeadline(time.Time{})
	state := c.tls.ConnectionState()
	c.protocol.http2 = state.NegotiatedProtocol == http2.NextProtoTLS
	if c.protocol.http2 {
		c.frames.Store(http2body.New(wire{c}))
	}
	if d := timeouts.readHeader(); d > 0 {
		_ = c.setReadDeadline(time.Now().Add(d))
	}
	if c.protocol.http2 && !secureForHTTP2(state) {
		_ = http2.NewFramer(c.tls, nil).WriteGoAway(0, http2.ErrCodeInadequateSecurity, nil)
		_ = c.Close()
		return c.readError(errInsecureHTTP2)
	}
	return nil
}

func (c *Conn) readError(err error) error {
	return &net.OpError{Op: "read", Net: "tcp", Source: c.RemoteAddr(), Addr: c.tls.LocalAddr(), Err: err}
}

// refusePlainHTTP answers a client that speaks HTTP on the port for HTTPS, in
// net/http's words, and returns what is to be logged.
func refusePlainHTTP(err error) error {
	var header tls.RecordHeaderError
	if !errors.As(err, &header) || header.Conn == nil {
		return err
	}
	switch string(header.RecordHeader[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO":
	default:
		return err
	}
	_, _ = io.WriteString(header.Conn, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
	_ = header.Conn.Close()
	return errors.New("client sent an HTTP request to an HTTPS server")
}

// secureForHTTP2 reports whether HTTP/2 may be spoken (RFC 9113, section 9.2).
// Of the suites that crypto/tls has for TLS 1.2, appendix A allows those with
// ephemeral key exchange and AEAD.
func secureForHTTP2(state tls.ConnectionState) bool {
	switch state.CipherSuite {
	case tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256:
		return true
	}
	return state.Version >= tls.VersionTLS13
}

// A protocolCheck compares the first bytes of a connection with what ALPN has
// agreed on: the HTTP/2 preface (RFC 9113, section 3.4) on h2, and nothing like
// it otherwise.
type protocolCheck struct {
	http2 bool
	seen  int // bytes that agree with the preface
	done  bool
}

// accept takes the next bytes and reports whether they are allowed.
func (p *protocolCheck) accept(b []byte) bool {
	for i := 0; i < len(b) && !p.done; i++ {
		if b[i] != http2.ClientPreface[p.seen] {
			p.done = true
			return !p.http2
		}
		if p.seen++; p.seen == len(http2.ClientPreface) {
			p.done = true
			return p.http2
		}
	}
	return true
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	if frames := c.frames.Load(); frames != nil {
		return frames.Write(p)
	}
	n, err := c.writePlaceholder(p)
	if errors.Is(err, errPlaceholder) {
		c.distrust()
	}
	return n, err
}

// Close implements net.Conn. It does not wait for the client.
func (c *Conn) Close() error {
	if frames := c.frames.Load(); frames != nil {
		frames.Close(nil)
	}
	return c.tls.Close()
}

// CloseWrite sends close_notify.
func (c *Conn) CloseWrite() error { return c.tls.CloseWrite() }

// ConnectionState returns what was negotiated, after the handshake; Caddy fills
// (*http.Request).TLS with it.
func (c *Conn) ConnectionState() tls.ConnectionState {
	c.handshake.Do(c.shakeHands)
	return c.tls.ConnectionState()
}

// LocalAddr returns the local address. It is also how a handler gets from a
// request to its connection: net/http keeps it in the request's context.
func (c *Conn) LocalAddr() net.Addr { return &c.addr }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.tls.RemoteAddr() }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.tls.SetWriteDeadline(t) }

// A localAddr carries the connection that it is an address of.
type localAddr struct {
	net.Addr
	conn *Conn
}

// connOf returns the connection of a request, or nil if it is not a Conn.
func connOf(r *http.Request) *Conn {
	if addr, ok := r.Context().Value(http.LocalAddrContextKey).(*localAddr); ok {
		return addr.conn
	}
	return nil
}

// Timeouts are those of the http.Server that bound the handshake. Zero or less
// means no limit.
type Timeouts struct {
	ReadHeader, Read, Write time.Duration
}

// handshake returns the least of the timeouts, as net/http has it.
func (t Timeouts) handshake() time.Duration {
	var least time.Duration
	for _, d := range [...]time.Duration{t.ReadHeader, t.Read, t.Write} {
		if d > 0 && (least == 0 || d < least) {
			least = d
		}
	}
	return least
}

func (t Timeouts) readHeader() time.Duration {
	if t.ReadHeader != 0 {
		return t.ReadHeader
	}
	return t.Read
}

// A Server makes the connections of one http.Server, on any number of
// listeners.
type Server struct {
	TLS      *ktls.Server
	Timeouts Timeouts

	// HandshakeFailed, if not nil, gets what net/http would log of a failed
	// handshake.
	HandshakeFailed func(message string)

	// NotTCP, if not nil, is told of connections that can't be offloaded
	// since the one below TLS is of another type. They are handed on
	// untouched.
	NotTCP func(raw net.Conn)

	// Distrusted, if not nil, is called when a body over HTTP/1.1 has failed
	// because something between handler and connection does not hand on what it
	// should. All later ones over that protocol are copied, so it is called once
	// in the life of the process.
	Distrusted func(protocol string)

	// Sent, if not nil, is told how many bytes of a body have gone out by
	// sendfile(2).
	Sent func(n int64)
}

func (s *Server) handshakeFailed(from net.Addr, err error) {
	if s.HandshakeFailed != nil {
		s.HandshakeFailed(fmt.Sprintf("http: TLS handshake error from %s: %v", from, err))
	}
}

func (s *Server) countSent(n int64) {
	if s.Sent != nil {
		s.Sent(n)
	}
}

// Listener returns a listener that takes over the *tls.Conn of inner, before
// their handshake, with the Server's own configuration. Other connections pass
// untouched.
func (s *Server) Listener(inner net.Listener) net.Listener {
	return &listener{Listener: inner, server: s}
}

type listener struct {
	net.Listener
	server *Server
	closed atomic.Bool
}

// Close is the first thing that a server does that stops. Its HTTP/2 part then has
// the connections go away that it knows. It knows a *tls.Conn from the handshake
// on, but ours from their preface on: those that are between the two are taken
// care of by readFrames.
func (l *listener) Close() error {
	l.closed.Store(true)
	return l.Listener.Close()
}

func (l *listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	// Plain HTTP, or another copy of this listener has been here.
	stock, ok := conn.(*tls.Conn)
	if !ok {
		return conn, nil
	}
	raw, ok := stock.NetConn().(*net.TCPConn)
	if !ok {
		if l.server.NotTCP != nil {
			l.server.NotTCP(stock.NetConn())
		}
		return conn, nil
	}
	return newConn(l.server.TLS.Conn(raw), l), nil
}

var _ net.Conn = (*Conn)(nil)
