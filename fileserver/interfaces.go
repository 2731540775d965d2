package fileserver

import (
	"io"
	"net/http"
	"strings"
)

// Without Caddy's idle timeouts handlers get our writer itself in the place of
// net/http's. So it has what that has and handlers may look for.

// Flush implements http.Flusher.
func (w *writer) Flush() { _ = w.FlushError() }

// WriteString implements io.StringWriter.
func (w *writer) WriteString(s string) (int, error) {
	w.fixHeader()
	if w.framing() {
		return w.writeFrames([]byte(s))
	}
	n, err := io.WriteString(w.ResponseWriter, s)
	w.wrote(int64(n))
	return n, err
}

// An http2Writer is our writer for handlers of HTTP/2, where no connection can be taken
// over.
type http2Writer struct{ http2Methods }

type http2Methods interface {
	http.ResponseWriter
	http.Flusher
	http.Pusher
	io.ReaderFrom
	io.StringWriter
	FlushError() error
}

// Unwrap leads an http.ResponseController to our writer.
func (w http2Writer) Unwrap() http.ResponseWriter { return w.http2Methods }

// RefuseBody is to be called when a handler has failed with an *http.MaxBytesError
// and has yet to answer: the response that then comes need not pass our writer.
func (r *Response) RefuseBody() { r.writer.refuseBody() }

// refuseBody does what an http.MaxBytesReader does to net/http's writer when it finds
// a request too large: the connection closes, so the client need not send the rest
// before it gets the response. Only net/http's own type can have the method that a
// MaxBytesReader looks for. The error that a handler returns tells of the limit too,
// and of a handler that answers itself the status does: why it has chosen 413 can't be
// told, so a connection may close whose client has sent all. If the body's length is
// known, net/http finds out by itself how much there is.
func (w *writer) refuseBody() {
	if w.request.ContentLength < 0 && typeName(w.ResponseWriter) == "net/http.response" {
		_, _ = http.MaxBytesReader(w.ResponseWriter, io.NopCloser(strings.NewReader("x")), 0).Read(make([]byte, 1))
	}
}

var (
	_ http.Flusher    = (*writer)(nil)
	_ http.Hijacker   = (*writer)(nil)
	_ io.StringWriter = (*writer)(nil)
)
