package ktls

import (
	"context"
	"crypto/tls"
	"net"
)

// NewListener is like tls.NewListener, for connections that can be offloaded: it accepts
// connections of type *[Conn]. options may be nil. For several listeners with the same
// Options see [Server.Listener].
func NewListener(inner net.Listener, config *tls.Config, options *Options) *Listener {
	return NewServer(config, options).Listener(inner)
}

// A Listener accepts TLS connections, each as a *[Conn]. It does not wait for
// handshakes.
//
// Use it with http.Server's Serve. ServeTLS would speak TLS within TLS, and answer each
// request with status 400. Which versions of HTTP the server speaks depends on the Go
// that the program is built with:
//
//   - From Go 1.27 on, HTTP/1.1 and HTTP/2, as with a *tls.Conn. Files go out by
//     sendfile(2) over HTTP/1.1 only.
//   - Before Go 1.27, an http.Server speaks HTTP/2 on a *tls.Conn only. So HTTP/2 is not
//     negotiated, even if the configuration's NextProtos include "h2". Use [Server.Conn]
//     to serve HTTP/2 by other means. The http.Server neither logs handshakes that fail
//     nor answers plain HTTP, and its timeouts don't bound the handshake, see
//     [Options].HandshakeTimeout.
type Listener struct {
	net.Listener
	server *Server
}

// Listener returns a listener that accepts the connections of inner as the Server's.
func (s *Server) Listener(inner net.Listener) *Listener { return &Listener{inner, s} }

// Accept waits for the next connection.
func (l *Listener) Accept() (net.Conn, error) {
	raw, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.server.conn(raw, http2OnAnyConn), nil
}

// Wait waits for the connections that were closed but still have data to send, or until
// ctx is done. In the latter case it returns the error of ctx. A process calls it after
// (*http.Server).Shutdown and before it exits: what is left when it exits is lost.
// Connections of the same [Server] or [Drain] are waited for together.
func (l *Listener) Wait(ctx context.Context) error { return l.server.Wait(ctx) }
