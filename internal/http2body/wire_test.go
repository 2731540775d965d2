package http2body

import (
	"bytes"
	"net"
	"os"
	"sync"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
)

// A testWire is a Wire over a connection, or one without a client, which keeps what
// is written.
type testWire struct {
	conn    net.Conn
	follows *Conn // that writes here

	// writing, if not nil, is called before n frames of ours, or before the server's
	// bytes (0). An error of it is that of the write.
	writing func(frames int) error

	// sending, if not nil, is called in place of sending and keeping a part of a file.
	sending func(part filerange.Segment)

	mu       sync.Mutex
	out      bytes.Buffer
	in       []byte // what is read
	piece    int    // at most so much at once
	deadline time.Time
	aborted  bool
	corked   bool
}

func (w *testWire) Read(p []byte) (int, error) {
	if w.conn != nil {
		return w.conn.Read(p)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.deadline.IsZero() && time.Now().After(w.deadline) {
		return 0, os.ErrDeadlineExceeded
	}
	if len(w.in) == 0 {
		return 0, net.ErrClosed
	}
	n := copy(p[:min(len(p), w.piece)], w.in)
	w.in = w.in[n:]
	return n, nil
}

func (w *testWire) SetReadDeadline(t time.Time) error {
	if w.conn != nil {
		return w.conn.SetReadDeadline(t)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deadline = t
	return nil
}

func (w *testWire) Write(p []byte) (int, error) {
	frames := 0
	if w.isOurs() {
		for rest := p; len(rest) > 0; rest = rest[frameHeaderLen+parseFrameHeader(rest).length:] {
			frames++
		}
	}
	return len(p), w.write(frames, p)
}

// isOurs reports whether a stream has the turn, and not the server.
func (w *testWire) isOurs() bool {
	if w.follows == nil {
		return false
	}
	w.follows.mu.Lock()
	defer w.follows.mu.Unlock()
	return w.follows.busy && !w.follows.writing
}

func (w *testWire) SendFrames(header []byte, part filerange.Segment, payload int64) (filerange.Sent, error) {
	if w.sending != nil {
		w.sending(part)
		return filerange.Sent{Sendfile: part.Len}, nil
	}
	var all []byte
	count := 0
	for rest := part; rest.Len > 0; rest = rest.Rest(payload) {
		p := make([]byte, payload)
		if _, err := rest.File.ReadAt(p, rest.Offset); err != nil {
			return filerange.Sent{}, err
		}
		all = append(append(all, header...), p...)
		count++
	}
	return filerange.Sent{Sendfile: part.Len}, w.write(count, all)
}

func (w *testWire) Cork(on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.corked = on
}

func (w *testWire) isCorked() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.corked
}

func (w *testWire) Abort() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.aborted = true
	if w.conn != nil {
		w.conn.Close()
	}
}

func (w *testWire) write(frames int, p []byte) error {
	if w.writing != nil {
		if err := w.writing(frames); err != nil {
			return err
		}
	}
	if w.conn != nil {
		_, err := w.conn.Write(p)
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.out.Write(p)
	return nil
}

// taken returns what was written since the last call.
func (w *testWire) taken() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := bytes.Clone(w.out.Bytes())
	w.out.Reset()
	return b
}
