package fileserver

import (
	"context"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/internal/http2body"
)

// A retired connection (see [ktls.Conn.Retired]) has to end, but without losing a
// request. Over HTTP/1.1 a response that begins says so (see [Wrap]), and a connection
// that waits for a request waits for only retiredIdle. HTTP/2 has GOAWAY: a server that
// reads GOAWAY from its client sends one itself, finishes its streams and closes the
// connection. So we make the server read one.

// retiredIdle is how long a retired connection waits for another request, which may be on
// its way. The HTTP/2 server waits as long after GOAWAY.
const retiredIdle = time.Second

// takeBackClose removes from the header of a response that upgrades its connection that
// the connection ends with the response (see [Wrap]). It does not, and clients that look
// for "Connection: Upgrade" would miss it. An upgraded connection lives as long as its
// user wants.
func (w *writer) takeBackClose() {
	header := w.Header()
	if values := header["Connection"]; w.body.conn != nil && w.body.conn.tls.Retired() && len(values) > 0 && values[0] == "close" {
		header["Connection"] = values[1:]
	}
}

// An idleness says where net/http is between two requests of HTTP/1.1. net/http sets a
// read deadline for the wait, and another one when the first bytes have come.
type idleness = int32

const (
	busy          idleness = iota
	beforeWaiting          // net/http has said that the connection is idle
	waiting                // net/http has set the deadline for the wait
)

// ConnState follows the states of connections. It must be the ConnState hook of an
// http.Server whose listener is one of [Server.Listener]. It ignores other connections.
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

// ConnContext gives connections the context of their handshake, as net/http does for a
// *tls.Conn. It must be the ConnContext hook of an http.Server whose listener is one of
// [Server.Listener]. It ignores other connections.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	if addr, ok := c.LocalAddr().(*localAddr); ok {
		addr.conn.tls.SetContext(context.WithValue(ctx, http.LocalAddrContextKey, c.LocalAddr()))
	}
	return ctx
}

// limitNewIdle returns the read deadline to set when net/http sets t. It follows where
// net/http is, and limits the wait for a request on a retired connection.
func (c *conn) limitNewIdle(t time.Time) time.Time {
	if !c.idle.CompareAndSwap(beforeWaiting, waiting) {
		c.idle.CompareAndSwap(waiting, busy)
		return t
	}
	if limit := time.Now().Add(retiredIdle); c.tls.Retired() && (t.IsZero() || limit.Before(t)) {
		return limit
	}
	return t
}

// limitIdle limits a wait for a request that began before the connection was retired. The
// read was interrupted for it.
func (c *conn) limitIdle() {
	if c.idle.Load() == waiting {
		_ = c.setReadDeadline(time.Now().Add(retiredIdle))
	}
}

// missedShutdown reports whether the HTTP/2 server has shut down without noticing this
// connection. The server notices it only when the client's preface comes. It would have
// noticed a *tls.Conn after the handshake, and sent GOAWAY.
func (c *conn) missedShutdown(frames *http2body.Conn) bool {
	return c.handshake.inTime && !frames.Begun() && c.listener.closed.Load()
}

// insertGoAway makes the HTTP/2 server send GOAWAY.
func (c *conn) insertGoAway() {
	// The client's GOAWAY names the last stream that the server has opened. There is
	// none.
	c.http2.Load().Insert(func(f *http2.Framer) error { return f.WriteGoAway(0, http2.ErrCodeNo, nil) })
}
