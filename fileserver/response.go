package fileserver

import (
	"io"
	"net/http"
	"strings"

	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// A Response is a response for which [Wrap] has made a writer. It says how the body goes
// out, as far as that is known. Its methods are for the goroutine of the handler.
type Response struct{ writer writer }

// Offload returns whether the response's connection is offloaded, or why it is not. It
// returns false if the connection does not come from a [Server.Listener].
func (r *Response) Offload() (ktls.State, bool) {
	c := r.writer.body.conn
	if c == nil {
		return 0, false
	}
	return c.tls.State(), true
}

// Reason returns why the body is copied, or ReasonNone if it goes out by sendfile(2).
func (r *Response) Reason() Reason {
	switch b := &r.writer.body; {
	case b.told:
		return b.reason
	case b.small:
		return ReasonSmall
	}
	return ReasonNotAFile
}

// Eligible reports whether the body is a file of at least MinSize. [Options].Sending has
// then been called.
func (r *Response) Eligible() bool { return r.writer.body.told }

// Sent returns how many bytes of the body have gone out by sendfile(2).
func (r *Response) Sent() int64 { return r.writer.body.sent.Sendfile }

// Copied returns how many bytes of the body have gone out in another way.
func (r *Response) Copied() int64 { return r.writer.body.sent.Copied }

// Done must be called when the handler that got the writer of [Wrap] has returned, even
// if it has panicked. Others may still use the writer. But when they have returned too,
// no timer may use the server's writer.
func (r *Response) Done() { r.writer.http2.deadline.giveBack() }

// RefuseBody must be called when a handler has failed with an *http.MaxBytesError and has
// not answered yet: the response that then comes need not pass our writer.
func (r *Response) RefuseBody() { r.writer.refuseBody() }

// refuseBody does what an http.MaxBytesReader does to net/http's writer when it finds a
// request too large: the connection closes, so the client need not send the rest before
// it gets the response. Only net/http's own type can have the method that a
// MaxBytesReader looks for. The error of a handler shows that the limit was exceeded. If
// the handler answers itself, the status shows it. Nobody can tell why the handler has
// chosen 413, so a connection may close although its client has sent everything. If the
// length of the request body is known, net/http itself finds out how much there is.
func (w *writer) refuseBody() {
	if w.body.request.ContentLength < 0 && typeName(w.ResponseWriter) == "net/http.response" {
		_, _ = http.MaxBytesReader(w.ResponseWriter, io.NopCloser(strings.NewReader("x")), 0).Read(make([]byte, 1))
	}
}
