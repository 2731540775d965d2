package fileserver

import (
	"io"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// A writer is an http.ResponseWriter at the bottom of Caddy's chain, just above the
// server's writer. What reaches it goes on the wire unchanged. It notes what the header
// says, and leaves the body to the way of its protocol. Everything else passes through.
//
// It belongs to the goroutine of the handler. Only the deadline may be set by others.
type writer struct {
	caddyhttp.ResponseWriterWrapper // around the server's writer, or Caddy's around that

	above caddyhttp.ResponseWriterWrapper // makes Caddy's idle timeouts write to this writer

	body  body
	http1 http1Body
	http2 http2Body
}

// A way is how bodies go out over one protocol. The header is noted before write,
// writeString, readFrom and flush are called.
type way interface {
	write(p []byte) (int, error)
	writeString(s string) (int, error)
	readFrom(r io.Reader) (int64, error)
	flush() error
	setWriteDeadline(t time.Time) error

	// trust says whether bodies may be sent over the protocol at all.
	trust() *trust
	// protocolReason returns why this body has to be copied, if nothing else prevents
	// sending it. server is the server's own writer.
	protocolReason(server http.ResponseWriter) Reason
}

// WriteHeader implements http.ResponseWriter.
func (w *writer) WriteHeader(status int) {
	if w.body.header.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		switch status {
		case http.StatusRequestEntityTooLarge:
			w.refuseBody()
		case http.StatusSwitchingProtocols:
			w.takeBackClose()
		}
		w.body.header.noteStatus(status, w.Header())
	}
	w.ResponseWriterWrapper.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *writer) Write(p []byte) (int, error) {
	w.noteHeader()
	return w.body.way.write(p)
}

// WriteString implements io.StringWriter.
func (w *writer) WriteString(s string) (int, error) {
	w.noteHeader()
	return w.body.way.writeString(s)
}

// ReadFrom implements io.ReaderFrom. io.Copy, and so http.ServeContent, calls it with the
// file. Caddy's idle timeouts hand the file on in parts.
func (w *writer) ReadFrom(r io.Reader) (int64, error) {
	w.noteHeader()
	return w.body.way.readFrom(r)
}

// FlushError is called by an http.ResponseController to flush.
func (w *writer) FlushError() error {
	w.noteHeader()
	return w.body.way.flush()
}

// Flush implements http.Flusher.
func (w *writer) Flush() { _ = w.FlushError() }

// SetWriteDeadline is called by an http.ResponseController to set the write deadline.
func (w *writer) SetWriteDeadline(t time.Time) error { return w.body.way.setWriteDeadline(t) }

func (w *writer) noteHeader() {
	if h := &w.body.header; !h.noted {
		h.note(w.Header())
	}
}

var (
	_ http.ResponseWriter = (*writer)(nil)
	_ http.Flusher        = (*writer)(nil)
	_ http.Hijacker       = (*writer)(nil)
	_ io.ReaderFrom       = (*writer)(nil)
	_ io.StringWriter     = (*writer)(nil)
)
