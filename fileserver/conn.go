package fileserver

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/http2body"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// A conn is a TLS connection that speaks HTTP, as net/http sees it. Reads follow the
// protocol that was negotiated. Writes go through http1, or through http2 if that was
// negotiated.
type conn struct {
	tls      *ktls.Conn
	listener *listener // that accepted the connection
	addr     localAddr

	handshake handshake
	protocol  protocolCheck // for the goroutine that reads, after the handshake
	idle      atomic.Int32  // an idleness
	goAway    sync.Once     // makes the server send GOAWAY

	http1 http1Sender
	http2 atomic.Pointer[http2body.Conn] // set by the handshake; nil with HTTP/1.1
}

func newConn(t *ktls.Conn, l *listener) *conn {
	c := &conn{tls: t, listener: l, http1: http1Sender{tls: t, server: l.server}}
	c.addr = localAddr{t.LocalAddr(), c}
	return c
}

// Read implements net.Conn. A failed handshake is a read error, so net/http does not
// answer it.
func (c *conn) Read(p []byte) (int, error) {
	if err := c.shakeHands(); err != nil {
		return 0, err
	}
	if frames := c.http2.Load(); frames != nil {
		return c.readFrames(frames, p)
	}
	for {
		n, err := c.tls.Read(p)
		if errors.Is(err, ktls.ErrRetired) {
			c.limitIdle()
			continue
		}
		if !c.protocol.accept(p[:n]) {
			return 0, c.refuse()
		}
		return n, err
	}
}

// readFrames reads the frames of an HTTP/2 client.
func (c *conn) readFrames(frames *http2body.Conn, p []byte) (int, error) {
	for {
		if c.tls.Retired() || c.missedShutdown(frames) {
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
	if frames := c.http2.Load(); frames != nil {
		return frames.Write(p)
	}
	return c.http1.write(p)
}

// Close implements net.Conn. It does not wait for the client.
func (c *conn) Close() error {
	if frames := c.http2.Load(); frames != nil {
		frames.Close(nil)
	}
	return c.tls.Close()
}

// CloseWrite sends close_notify.
func (c *conn) CloseWrite() error { return c.tls.CloseWrite() }

// ConnectionState returns what was negotiated, after the handshake. Caddy fills
// (*http.Request).TLS with it.
func (c *conn) ConnectionState() tls.ConnectionState {
	_ = c.shakeHands()
	return c.tls.ConnectionState()
}

// LocalAddr returns the local address. A handler also uses it to get from a request to
// its connection, because net/http keeps it in the request's context.
func (c *conn) LocalAddr() net.Addr { return &c.addr }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return c.tls.RemoteAddr() }

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error { return c.setReadDeadline(c.limitNewIdle(t)) }

func (c *conn) setReadDeadline(t time.Time) error {
	if frames := c.http2.Load(); frames != nil {
		return frames.SetReadDeadline(t)
	}
	return c.tls.SetReadDeadline(t)
}

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error { return c.tls.SetWriteDeadline(t) }

// A localAddr is a local address that knows its connection.
type localAddr struct {
	net.Addr
	conn *conn
}

// connOf returns the connection of a request, or nil if it is not a connection of ours.
func connOf(r *http.Request) *conn {
	if addr, ok := r.Context().Value(http.LocalAddrContextKey).(*localAddr); ok {
		return addr.conn
	}
	return nil
}

var _ net.Conn = (*conn)(nil)
