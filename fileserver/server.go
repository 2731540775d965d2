package fileserver

import (
	"crypto/tls"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// Timeouts are the timeouts of the http.Server. The handshake may take as long as the
// shortest of them. Zero or less means no limit.
type Timeouts struct {
	ReadHeader, Read, Write time.Duration
}

// handshake returns the shortest of the timeouts, as net/http does.
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

// A Server makes the connections of one http.Server, on any number of listeners. TLS must
// be set. The other fields are optional.
type Server struct {
	TLS      *ktls.Server
	Timeouts Timeouts

	// HandshakeFailed, if not nil, is called for each failed handshake, with the message
	// that net/http would log.
	HandshakeFailed func(message string)

	// NotTCP, if not nil, is called for connections that can't be offloaded because the
	// connection below TLS is not a *net.TCPConn. They are handed on unchanged.
	NotTCP func(raw net.Conn)

	// Distrusted, if not nil, is called when a body over HTTP/1.1 has failed because
	// something between net/http and the connection alters what is written. From then on
	// all bodies over HTTP/1.1 are copied, so it is called at most once in the life of
	// the process.
	Distrusted func()

	// Sent, if not nil, is called after each sendfile(2), with the number of bytes of a
	// body that went out by it.
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

// Listener returns a listener that takes the TCP connection from each *tls.Conn of inner,
// before its handshake, and makes a connection of its own from it, with the configuration
// of s.TLS. It hands on connections of other types unchanged. Closing it closes inner.
func (s *Server) Listener(inner net.Listener) net.Listener {
	return &listener{Listener: inner, server: s}
}

// A listener accepts the connections of a Server.
type listener struct {
	net.Listener
	server *Server
	closed atomic.Bool
}

// Close notes that the server shuts down, because a server closes its listeners first.
// See missedShutdown.
func (l *listener) Close() error {
	l.closed.Store(true)
	return l.Listener.Close()
}

func (l *listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	// The connection is plain HTTP, or another copy of this listener has handled it.
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
