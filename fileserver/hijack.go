package fileserver

import (
	"bufio"
	"crypto/tls"
	"net"
	"net/http"
	"reflect"
)

// Hijack implements http.Hijacker. The sending side of the connection that it returns can
// be closed alone, like that of a *tls.Conn. Caddy's own wrappers of a connection hide
// that.
func (w *writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return conn, buffered, err
	}
	w.body.mode = copying // net/http refuses what is written, and can't be flushed any more
	if below := connBelow(conn); below != nil && below != conn {
		conn = hijacked{conn, below}
	}
	return conn, buffered, nil
}

// connBelow returns c if it is a conn, or the conn that Caddy itself has wrapped. It does
// not look through other wrappers: they may hold back bytes, which close_notify must not
// overtake.
func connBelow(c net.Conn) *conn {
	for {
		if below, ok := c.(*conn); ok {
			return below
		}
		switch typeName(c) {
		case caddyPackage + ".tlsStateConn", caddyPackage + ".http2StateConn", caddyPackage + ".http2Conn":
		default:
			return nil
		}
		wrapper := reflect.Indirect(reflect.ValueOf(c))
		if wrapper.Kind() != reflect.Struct {
			return nil
		}
		below := wrapper.FieldByName("Conn") // the embedded connection
		if !below.IsValid() || !below.CanInterface() {
			return nil
		}
		if c, _ = below.Interface().(net.Conn); c == nil {
			return nil
		}
	}
}

// A hijacked is a hijacked connection with the methods that Caddy's wrappers hide.
type hijacked struct {
	net.Conn
	tls *conn
}

// CloseWrite sends close_notify.
func (h hijacked) CloseWrite() error { return h.tls.CloseWrite() }

// ConnectionState returns what was negotiated.
func (h hijacked) ConnectionState() tls.ConnectionState { return h.tls.ConnectionState() }
