package testutil

import (
	"io"
	"net/http"
	"time"
)

// A Discarder is an http.ResponseWriter like net/http's, but costs as little as possible.
// It reads what it is given through a buffer, as net/http does. [NewDiscarder] makes one.
type Discarder struct {
	header http.Header
	buf    []byte
}

// NewDiscarder returns a Discarder.
func NewDiscarder() *Discarder {
	return &Discarder{header: make(http.Header), buf: make([]byte, 32<<10)}
}

// Header returns the response's fields. They are the same for all responses until the
// caller clears them.
func (d *Discarder) Header() http.Header { return d.header }

// WriteHeader does nothing.
func (d *Discarder) WriteHeader(int) {}

// FlushError does nothing.
func (d *Discarder) FlushError() error { return nil }

// SetWriteDeadline does nothing.
func (d *Discarder) SetWriteDeadline(time.Time) error { return nil }

func (d *Discarder) Write(p []byte) (int, error) { return len(p), nil }

// ReadFrom reads everything.
func (d *Discarder) ReadFrom(r io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, d.buf)
}
