package fileserver

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/internal/http2body"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// A conn is a TLS connection that speaks HTTP. net/http does not see a
// *tls.Conn any more, so conn does what net/http does for one: it limits and
// logs the handshake, answers plain HTTP, and holds the client to the protocol
// that it negotiated.
//
// And it lets a response send a file by net/http's ordinary Write: the writer
// announces a file, writes a placeholder of its length, and conn recognises the
// placeholder by its address and sends the file instead. Over HTTP/2 package
// http2body stands between it and the server.
type conn struct {
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

func newConn(c *ktls.Conn, l *listener) *conn {
	own := &conn{tls: c, server: l.server, listener: l}
	own.addr = localAddr{c.LocalAddr(), own}
	return own
}

// Read implements net.Conn. A failed handshake is a read error, so that
// net/http does not answer it.
func (c *conn) Read(p []byte) (int, error) {
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
func (c *conn) readFrames(p []byte) (int, error) {
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
func (c *conn) refuse() error {
	_ = c.Close()
	return c.readError(errProtocol)
}

func (c *conn) readError(err error) error {
	return &net.OpError{Op: "read", Net: "tcp", Source: c.RemoteAddr(), Addr: c.tls.LocalAddr(), Err: err}
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
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
func (c *conn) Close() error {
	if frames := c.frames.Load(); frames != nil {
		frames.Close(nil)
	}
	return c.tls.Close()
}

// CloseWrite sends close_notify.
func (c *conn) CloseWrite() error { return c.tls.CloseWrite() }

// ConnectionState returns what was negotiated, after the handshake; Caddy fills
// (*http.Request).TLS with it.
func (c *conn) ConnectionState() tls.ConnectionState {
	c.handshake.Do(c.shakeHands)
	return c.tls.ConnectionState()
}

// LocalAddr returns the local address. It is also how a handler gets from a
// request to its connection: net/http keeps it in the request's context.
func (c *conn) LocalAddr() net.Addr { return &c.addr }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return c.tls.RemoteAddr() }

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error { return c.tls.SetWriteDeadline(t) }

// A localAddr carries the connection that it is an address of.
type localAddr struct {
	net.Addr
	conn *conn
}

// connOf returns the connection of a request, or nil if the server has another.
func connOf(r *http.Request) *conn {
	if addr, ok := r.Context().Value(http.LocalAddrContextKey).(*localAddr); ok {
		return addr.conn
	}
	return nil
}

var _ net.Conn = (*conn)(nil)
