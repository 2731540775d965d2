package fileserver

import (
	"errors"
	"net/http"
	"slices"
	"testing"
)

var errLeft = errors.New("client disconnected")

// A leavingWriter writes frames at once, or when it is flushed, and fails then as
// the HTTP/2 server does whose client has left with all that it wanted.
type leavingWriter struct {
	http.ResponseWriter
	server  *testServer
	content []byte
	late    bool
	leave   bool
	waiting []byte
}

func (w *leavingWriter) Write(p []byte) (int, error) {
	w.waiting = p
	if w.late {
		return len(p), nil
	}
	if err := w.FlushError(); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (w *leavingWriter) FlushError() error {
	for p := range slices.Chunk(w.waiting, 16<<10) {
		w.server.file(1, p, w.content[:len(p)])
		w.content = w.content[len(p):]
	}
	must(w.server.t, w.server.flush(whole))
	if w.leave {
		return errLeft
	}
	return nil
}

// A client that has got all and leaves at once is no failure, though the server
// may say that it has left rather than that all was written.
func TestLeavingClient(t *testing.T) {
	for _, late := range []bool{false, true} {
		s := newTestServer(t)
		content := randomBytes(2*patternLen, 1)
		f := openFile(t, content)
		w := &leavingWriter{server: s, content: content, late: late}
		for at := int64(0); at < int64(len(content)); at += patternLen {
			w.leave = at > 0
			n, byKernel, err := s.o.send(part{stream: 1, at: at, file: f, offset: at, n: patternLen}, w)
			if n != patternLen || byKernel != patternLen || err != nil {
				t.Errorf("late: %v, at %d: send = %d, %d, %v", late, at, n, byKernel, err)
			}
		}
		s.wantWire()
		// What comes after that does fail.
		s.o.close(nil)
		if n, _, err := s.o.send(part{stream: 1, at: 2 * patternLen, file: f, offset: 0, n: 1}, w); n != 0 || err == nil {
			t.Errorf("late: %v: after the end send = %d, %v", late, n, err)
		}
	}
}
