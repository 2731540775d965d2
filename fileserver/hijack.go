package fileserver

import (
	"bufio"
	"crypto/tls"
	"net"
	"net/http"
)

// Hijack implements http.Hijacker. The sending side of the connection that it
// returns can be closed alone, as that of the *tls.Conn can that net/http would have:
// what Caddy puts around a connection that is no *tls.Conn hides that.
func (w *writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil {
		w.path = copying // net/http refuses what is written, but can't be flushed any more
	}
	if err == nil && w.conn != nil {
		conn = hijacked{conn, w.conn}
	}
	return conn, buffered, err
}

type hijacked struct {
	net.Conn
	tls *Conn
}

// CloseWrite sends close_notify.
func (h hijacked) CloseWrite() error { return h.tls.CloseWrite() }

// ConnectionState returns what was negotiated.
func (h hijacked) ConnectionState() tls.ConnectionState { return h.tls.ConnectionState() }
