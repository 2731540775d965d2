package fileserver

import (
	"io"
	"net/http"
	"strings"

	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// A Response is a response that [Wrap] has given a writer. It tells how the body goes out,
// as far as is known. Its methods are for the goroutine of the handler.
type Response struct{ writer writer }

// Offload returns whether the response's connection is offloaded, or why it is not. It
// returns false if the connection is none of [Server.Listener]'s.
func (r *Response) Offload() (ktls.State, bool) {
	c := r.writer.body.conn
	if c == nil {
		return 0, false
	}
	return c.tls.State(), true
}

// Reason returns why the body is copied. It returns ReasonNone if the body goes out by
// sendfile(2).
func (r *Response) Reason() Reason {
	switch b := &r.writer.body; {
	case b.told:
		return b.reason
	case b.small:
		return ReasonSmall
	}
	return ReasonNotAFile
}

// Eligible reports whether the body is a file of at least MinSize, so that
// [Options].Sending has been called.
func (r *Response) Eligible() bool { return r.writer.body.told }

// Sent returns how many bytes of the body have gone out by sendfile(2).
func (r *Response) Sent() int64 { return r.writer.body.sent.Sendfile }

// Copied returns how many bytes of the body have gone out in another way.
func (r *Response) Copied() int64 { return r.writer.body.sent.Copied }

// Done has to be called when the handler that got the writer of [Wrap] has returned, also
// if it has panicked. Others may still use the writer. But when they have returned too, no
// timer may use the server's.
func (r *Response) Done() { r.writer.http2.deadline.giveBack() }

// RefuseBody has to be called when a handler has failed with an *http.MaxBytesError
// and has yet to answer: the response that then comes need not pass our writer.
func (r *Response) RefuseBody() { r.writer.refuseBody() }

// refuseBody does what an http.MaxBytesReader does to net/http's writer when it finds
// a request too large: the connection closes, so the client need not send the rest
// before it gets the response. Only net/http's own type can have the method that a
// MaxBytesReader looks for. The error that a handler returns tells of the limit too,
// and the status does if the handler answers itself. Why it has chosen 413 can't be
// told, so a connection may close whose client has sent all. If the body's length is
// known, net/http finds out by itself how much there is.
func (w *writer) refuseBody() {
	if w.body.request.ContentLength < 0 && typeName(w.ResponseWriter) == "net/http.response" {
		_, _ = http.MaxBytesReader(w.ResponseWriter, io.NopCloser(strings.NewReader("x")), 0).Read(make([]byte, 1))
	}
}
