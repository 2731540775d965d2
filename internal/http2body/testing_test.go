package http2body

import (
	"bytes"
	"errors"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A testWire is a Wire over a connection, or one without a client, which keeps what
// is written.
type testWire struct {
	conn    net.Conn
	follows *Conn // that writes here

	// writing, if not nil, is called before n frames of ours, or before the server's
	// bytes (0). An error of it is that of the write.
	writing func(frames int) error

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

// A frame writes a frame.
type frame = func(*http2.Framer) error

// written returns frames, illegal ones included.
func written(write ...frame) []byte {
	return Frames(func(f *http2.Framer) error {
		f.AllowIllegalWrites = true
		for _, w := range write {
			if err := w(f); err != nil {
				panic(err)
			}
		}
		return nil
	})
}

// fromClient returns frames behind the preface.
func fromClient(write ...frame) []byte {
	return append([]byte(http2.ClientPreface), written(write...)...)
}

func settings(settings ...http2.Setting) frame {
	return func(f *http2.Framer) error { return f.WriteSettings(settings...) }
}

func initialSize(n uint32) frame {
	return settings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: n})
}

func update(stream, n uint32) frame {
	return func(f *http2.Framer) error { return f.WriteWindowUpdate(stream, n) }
}

func headers(stream uint32, end bool) frame {
	return func(f *http2.Framer) error {
		return f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: make([]byte, 20), EndHeaders: true, EndStream: end})
	}
}

func data(stream uint32, end bool, content []byte) frame {
	return func(f *http2.Framer) error { return f.WriteData(stream, end, content) }
}

func raw(typ http2.FrameType, flags http2.Flags, stream uint32, payload []byte) frame {
	return func(f *http2.Framer) error { return f.WriteRawFrame(typ, flags, stream, payload) }
}

func ping(f *http2.Framer) error { return f.WritePing(false, [8]byte{7}) }

func reset(stream uint32) frame {
	return func(f *http2.Framer) error { return f.WriteRSTStream(stream, http2.ErrCodeCancel) }
}

func randomBytes(n int, seed byte) []byte {
	b := make([]byte, n)
	_, _ = mathrand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

func openFile(t testing.TB, content []byte) *os.File {
	t.Helper()
	name := filepath.Join(t.TempDir(), "f")
	must(t, os.WriteFile(name, content, 0o600))
	f, err := os.Open(name)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

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
	must(t, err)
	must(t, stream.AwaitServer(stubWriter{server: s, id: id}, 0))
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

// eventually waits until cond holds, under the connection's lock.
func eventually(c *Conn, cond func() bool) {
	for {
		c.mu.Lock()
		ok := cond()
		c.mu.Unlock()
		if ok {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// done fails the test if f does not return.
func done(t testing.TB, what string, f func()) {
	t.Helper()
	returned := make(chan struct{})
	go func() {
		defer close(returned)
		f()
	}()
	select {
	case <-returned:
	case <-time.After(hang):
		stacks := make([]byte, 1<<20)
		t.Fatalf("%s hangs\n%s", what, stacks[:runtime.Stack(stacks, true)])
	}
}

// bodies returns the payload of the DATA frames of each stream, and the streams in the
// order of their frames.
func bodies(t testing.TB, b []byte) (payload map[uint32][]byte, order []uint32) {
	t.Helper()
	payload = map[uint32][]byte{}
	for len(b) > 0 {
		if len(b) < frameHeaderLen {
			t.Fatalf("%x is left", b)
		}
		h := parseFrameHeader(b)
		if h.typ == http2.FrameData {
			payload[h.stream] = append(payload[h.stream], b[frameHeaderLen:][:h.length]...)
			order = append(order, h.stream)
		}
		b = b[frameHeaderLen+h.length:]
	}
	return payload, order
}
