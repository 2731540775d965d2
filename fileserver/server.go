package fileserver

import (
	"crypto/tls"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/caddy-ktls/caddy-ktls/ktls"
)

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
