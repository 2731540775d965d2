package http2body

import (
	"bytes"
	"errors"
	"net"
	"net/http"
	"runtime"
	"testing"

	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A stubServer writes to streams as an HTTP/2 server does, one write at a time, and
// within the windows that it knows.
type stubServer struct {
	conn     *Conn
	window   int64
	streams  map[uint32]int64 // windows
	filled   map[uint32]int   // bytes that were written by stubWriters
	hindered func()           // called before the first of these writes
}

// write writes DATA frames. It reads until there is window for all of them.
func (s *stubServer) write(id uint32, end bool, p []byte) error {
	for {
		n := min(int64(len(p)), s.window, s.streams[id], 16<<10)
		if n == 0 && len(p) > 0 {
			s.read(readInbound(s.conn, nil, 1))
			runtime.Gosched()
			continue
		}
		s.window -= n
		s.streams[id] -= n
		last := n == int64(len(p))
		if _, err := s.conn.Write(written(data(id, end && last, p[:n]))); err != nil || last {
			return err
		}
		p = p[n:]
	}
}

// read notes what increments the server has read.
func (s *stubServer) read(frames []byte) {
	framer := http2.NewFramer(nil, bytes.NewReader(frames))
	for {
		f, err := framer.ReadFrame()
		if err != nil {
			return
		}
		if f, ok := f.(*http2.WindowUpdateFrame); ok && f.StreamID == 0 {
			s.window += int64(f.Increment)
		} else if ok {
			s.streams[f.StreamID] += int64(f.Increment)
		}
	}
}

// A stubWriter is a stubServer's writer for a stream.
type stubWriter struct {
	http.ResponseWriter
	server *stubServer
	id     uint32
}

func (w stubWriter) FlushError() error { return nil }

func (w stubWriter) Write(p []byte) (int, error) {
	if f := w.server.hindered; f != nil {
		w.server.hindered = nil
		f()
	}
	w.server.filled[w.id] += len(p)
	return len(p), w.server.write(w.id, false, p)
}

// take opens a stream and takes it over.
func (s *stubServer) take(t testing.TB, id uint32) *Stream {
	t.Helper()
	s.open(id)
	stream, err := s.conn.Stream(id)
	testutil.Must(t, err)
	testutil.Must(t, stream.AwaitServer(stubWriter{server: s, id: id}, 0))
	stream.Take()
	return stream
}

// acknowledge acknowledges the client's settings.
func (s *stubServer) acknowledge() error {
	_, err := s.conn.Write(written((*http2.Framer).WriteSettingsAck))
	return err
}

func (s *stubServer) open(id uint32) {
	s.conn.last = 0 // in any order
	s.conn.opened(id)
	s.streams[id] = initialWindow
}

// newConn returns a connection without a client, whose preface was read, and its
// server.
func newConn() (*stubServer, *testWire) {
	w := new(testWire)
	c := New(w)
	w.follows = c
	readInbound(c, fromClient(settings()), 1<<20)
	c.acknowledge()
	return &stubServer{conn: c, window: initialWindow, streams: map[uint32]int64{}, filled: map[uint32]int{}}, w
}

// receive has the server read frames of the client.
func (s *stubServer) receive(write ...frame) { s.read(readInbound(s.conn, written(write...), 1<<20)) }

// readInbound returns what the server reads of a client's bytes that arrive in pieces
// of n.
func readInbound(c *Conn, stream []byte, n int) (got []byte) {
	w := c.wire.(*testWire)
	w.mu.Lock()
	w.in, w.piece = stream, n
	w.mu.Unlock()
	p := make([]byte, 100)
	for {
		m, err := c.Read(p)
		if got = append(got, p[:m]...); err != nil {
			if !errors.Is(err, net.ErrClosed) {
				panic(err)
			}
			return got
		}
	}
}

// withStreams returns a connection with the streams 1, which was taken over, and 3.
func withStreams(t testing.TB) (*stubServer, *testWire, *Stream) {
	t.Helper()
	s, w := newConn()
	stream := s.take(t, 1)
	s.open(3)
	return s, w, stream
}

// withReserve returns a server that has used up the connection's window, and two streams
// that were taken over. The second has 100 bytes of the window in reserve.
func withReserve(t testing.TB) (s *stubServer, w *testWire, poor, rich *Stream) {
	t.Helper()
	s, w = newConn()
	s.open(5)
	poor, rich = s.take(t, 1), s.take(t, 3)
	testutil.Must(t, s.write(3, false, make([]byte, 100))) // swallowed
	testutil.Must(t, s.write(5, false, make([]byte, initialWindow-100)))
	return s, w, poor, rich
}

// writeAll has the server write, in pieces.
func (s *stubServer) writeAll(t testing.TB, b []byte, piece func() int) {
	t.Helper()
	for len(b) > 0 {
		p := b[:min(len(b), piece())]
		b = b[len(p):]
		if n, err := s.conn.Write(p); n != len(p) || err != nil {
			t.Fatalf("%d of %d bytes, %v", n, len(p), err)
		}
	}
}
