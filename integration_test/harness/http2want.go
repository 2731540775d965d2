package harness

import (
	"bytes"
	"fmt"
	"io"
	"net/http"

	"golang.org/x/net/http2"
)

// The payloads of whole DATA frames that the module makes itself, from files and from
// memory. The HTTP/2 server fills its frames.
const (
	OwnFileFrame = 16_368
	ownFrame     = 16_375
)

// Begun waits until so many bytes of a body have come.
func (h *HTTP2Conn) Begun(s *Stream, n int) {
	h.t.Helper()
	h.Wait(fmt.Sprintf("stream %d has %d bytes", s.ID, n), func() bool { return len(s.Body) >= n || s.Reset })
}

// WantBody waits for the end of a stream, and fails the test if something else has come.
func (h *HTTP2Conn) WantBody(s *Stream, status int, body Digest) {
	h.t.Helper()
	h.Over(s)
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.Status != fmt.Sprint(status) || s.Reset {
		h.t.Errorf("stream %d: status %s, reset %v (%v), want status %d", s.ID, s.Status, s.Reset, s.Code, status)
	}
	if got := DigestOf(s.Body); got != body {
		h.t.Errorf("stream %d: body has %v, want %v", s.ID, got, body)
	}
}

// Over waits until a stream has ended, or was reset.
func (h *HTTP2Conn) Over(s *Stream) {
	h.t.Helper()
	h.Wait(fmt.Sprintf("stream %d ends", s.ID), func() bool { return s.Ended || s.Reset })
}

// WantReset waits for the end of a stream that must not look whole.
func (h *HTTP2Conn) WantReset(s *Stream) {
	h.t.Helper()
	h.Over(s)
	h.mu.Lock()
	defer h.mu.Unlock()
	if !s.Reset {
		h.t.Errorf("stream %d has ended as if it were whole", s.ID)
	}
}

// WantOwnFrames fails the test unless the module has sent most of a body itself.
func (h *HTTP2Conn) WantOwnFrames(s *Stream) {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if 2*s.own*OwnFileFrame < len(s.Body) {
		h.t.Errorf("stream %d: %d of its frames are the module's own, for %d bytes; %v", s.ID, s.own, len(s.Body), s.Header)
	}
}

// WantFile waits for the end of a stream, and fails the test unless a whole file has
// come.
func (h *HTTP2Conn) WantFile(s *Stream, f File) {
	h.t.Helper()
	h.WantBody(s, http.StatusOK, f.Digest)
}

// WantPrefix fails the test if a stream has brought anything but the beginning of its
// file. It returns how many bytes have come.
func (h *HTTP2Conn) WantPrefix(s *Stream, f File) int64 {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if !bytes.HasPrefix(f.Content, s.Body) {
		h.t.Errorf("stream %d has brought %d bytes that are not its file's", s.ID, len(s.Body))
	}
	if s.Ended && !s.canceled && len(s.Body) != len(f.Content) {
		h.t.Errorf("stream %d has ended after %d bytes of %d", s.ID, len(s.Body), len(f.Content))
	}
	return int64(len(s.Body))
}

// WantGoAway waits until the server has ended the connection. It fails the test unless
// the server did so in an orderly way: with GOAWAY without an error, and close_notify.
func (h *HTTP2Conn) WantGoAway() {
	h.t.Helper()
	<-h.Done
	if h.Err != io.EOF || h.GoAway == nil || h.GoAway.ErrCode != http2.ErrCodeNo {
		h.t.Errorf("the end was %v, %v", h.Err, h.GoAway)
	}
}
