package fileserver

import (
	"context"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/http2"
)

// A retired connection (see [ktls.Conn.Retired]) has to end, but no request may
// be lost by it. Over HTTP/1 a response that begins says so (see Insert), and a
// connection that waits for a request waits for retiredIdle only. HTTP/2 has
// GOAWAY: a server that reads one from its client sends one itself, finishes its
// streams and closes the connection, so it is made to read one.

// retiredIdle is how long a retired connection waits for another request, which
// may be on its way: as long as the HTTP/2 server waits after GOAWAY.
const retiredIdle = time.Second

// An idleness says where net/http is between two requests of HTTP/1: it sets a
// read deadline for the waiting, and another one when the first bytes have come.
type idleness = int32

const (
	busy idleness = iota
	beforeWaiting
	waiting
)

// ConnState follows the states of the connections of an http.Server that
// Listener has made; it is to be the server's ConnState hook.
func ConnState(c net.Conn, state http.ConnState) {
	addr, ok := c.LocalAddr().(*localAddr)
	switch {
	case !ok:
	case state == http.StateIdle:
		addr.conn.idle.Store(beforeWaiting)
	default:
		addr.conn.idle.Store(busy)
	}
}

// ConnContext gives the connections that Listener has made the context of their
// handshake, as net/http gives it to a *tls.Conn; it is to be the server's
// ConnContext hook.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	if addr, ok := c.LocalAddr().(*localAddr); ok {
		addr.conn.tls.SetContext(context.WithValue(ctx, http.LocalAddrContextKey, c.LocalAddr()))
	}
	return ctx
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error {
	if !c.idle.CompareAndSwap(beforeWaiting, waiting) {
		c.idle.CompareAndSwap(waiting, busy)
	} else if limit := time.Now().Add(retiredIdle); c.tls.Retired() && (t.IsZero() || limit.Before(t)) {
		t = limit
	}
	return c.setReadDeadline(t)
}

func (c *conn) setReadDeadline(t time.Time) error {
	if frames := c.frames.Load(); frames != nil {
		return frames.SetReadDeadline(t)
	}
	return c.tls.SetReadDeadline(t)
}

// retired is called when Read has been interrupted.
func (c *conn) retired() {
	if c.idle.Load() == waiting {
		_ = c.setReadDeadline(time.Now().Add(retiredIdle))
	}
}

// insertGoAway has the HTTP/2 server send GOAWAY.
func (c *conn) insertGoAway() {
	// The client's GOAWAY names the last stream of the server's, which has
	// begun none.
	c.frames.Load().Insert(func(f *http2.Framer) error { return f.WriteGoAway(0, http2.ErrCodeNo, nil) })
}
