package harness

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// An HTTP2Conn is a client's HTTP/2 connection that holds the server to the windows and
// the frame size that the client has given. Settings count from their acknowledgment on.
// Exported fields may be read in the function that Wait calls, and after Done is closed.
type HTTP2Conn struct {
	Done <-chan struct{} // closed when nothing is read any more

	t     testing.TB
	conn  io.WriteCloser
	abort func() // ends the connection without telling the server

	mu      sync.Mutex // guards what follows
	changed *sync.Cond
	framer  *http2.Framer
	encoder *hpack.Encoder
	block   bytes.Buffer // what encoder writes
	next    uint32       // stream
	streams map[uint32]*Stream
	flow    flow

	Pings  int // that were answered
	GoAway *http2.GoAwayFrame
	Err    error // that ended the reading
}

// flow is what the server must keep to.
type flow struct {
	windows  Windows
	window   int64           // of the connection
	initial  int64           // of streams
	maxFrame uint32          // as acknowledged
	unacked  []http2.Setting // sent last
}

// Windows say how windows begin and how they are opened.
type Windows struct {
	Initial, MaxFrame uint32
	// By how much a window is opened when less than that is left of it. 0 means never. If
	// it is negative, the window is opened when nothing is left.
	Stream, Connection int64
}

// InitialWindow is the first window of every HTTP/2 connection (RFC 9113, section 6.9.2).
const InitialWindow = 65_535

// WideWindows let the server send as much as it likes.
func WideWindows() Windows { return Windows{Initial: 1 << 30, MaxFrame: 16384, Connection: 1 << 24} }

// due returns by how much a window of that many bytes must be opened now, 0 if it need
// not be.
func due(window, by int64) int64 {
	switch {
	case by < 0 && window <= 0:
		return -by
	case window < by:
		return by
	}
	return 0
}

// A Stream is what has come on a stream. It may be read when the fields of HTTP2Conn may.
type Stream struct {
	ID     uint32
	Window int64
	Status string
	Header http.Header
	Body   []byte
	Ended  bool
	Reset  bool // by the server
	Code   http2.ErrCode

	own      int  // whole frames that the module has made itself
	canceled bool // by the client, which ignores what comes then
}

// OpenHTTP2 opens a connection to a site.
func OpenHTTP2(t testing.TB, s Site, windows Windows) *HTTP2Conn {
	t.Helper()
	return NewHTTP2(t, s.Dial(t, s.TLSConfig(t, HTTP2)), windows)
}

// NewHTTP2 begins to speak HTTP/2 on a connection.
func NewHTTP2(t testing.TB, conn io.ReadWriteCloser, windows Windows) *HTTP2Conn {
	t.Helper()
	done := make(chan struct{})
	h := &HTTP2Conn{
		Done: done, t: t, conn: conn, abort: func() { _ = conn.Close() }, next: 1, streams: map[uint32]*Stream{},
		flow: flow{windows: windows, window: InitialWindow, initial: InitialWindow, maxFrame: 16384},
	}
	if conn, ok := conn.(interface{ NetConn() net.Conn }); ok {
		h.abort = func() { _ = conn.NetConn().Close() }
	}
	h.changed = sync.NewCond(&h.mu)
	h.encoder = hpack.NewEncoder(&h.block)
	h.framer = http2.NewFramer(conn, conn)
	h.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	h.framer.SetMaxReadFrameSize(1<<24 - 1)
	_, err := io.WriteString(conn, http2.ClientPreface)
	testutil.Must(t, err)
	h.Configure(
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: windows.Initial},
		http2.Setting{ID: http2.SettingMaxFrameSize, Val: windows.MaxFrame})
	h.Send(func(*http2.Framer) error { h.open(nil); return nil })
	go func() { defer close(done); h.readAll() }()
	t.Cleanup(func() {
		h.abort()
		<-h.Done
	})
	return h
}

// Send writes frames. If the connection has gone, reading reports it.
func (h *HTTP2Conn) Send(write func(*http2.Framer) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	_ = write(h.framer)
}

// Request begins a stream. Headers come in pairs. A POST has the body "posted".
func (h *HTTP2Conn) Request(method, path string, headers ...string) *Stream {
	posts := method == http.MethodPost
	s := h.Begin(http2.PriorityParam{}, !posts, Fields(method, path, headers...)...)
	if posts {
		h.Send(func(f *http2.Framer) error { return f.WriteData(s.ID, true, []byte("posted")) })
	}
	return s
}

// Get begins a stream with GET.
func (h *HTTP2Conn) Get(path string) *Stream { return h.Request(http.MethodGet, path) }

// Fields returns the header fields of a request. Headers come in pairs.
func Fields(method, path string, headers ...string) []string {
	return append([]string{":method", method, ":scheme", "https", ":authority", "localhost", ":path", path}, headers...)
}

// Begin begins a stream. whole says that the request ends with its header.
func (h *HTTP2Conn) Begin(priority http2.PriorityParam, whole bool, fields ...string) *Stream {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &Stream{ID: h.next, Window: h.flow.initial, Header: http.Header{}}
	h.next += 2
	h.streams[s.ID] = s
	h.block.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = h.encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	_ = h.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: s.ID, BlockFragment: h.block.Bytes(), EndHeaders: true, EndStream: whole, Priority: priority,
	})
	h.open(s)
	return s
}

// Cancel resets a stream.
func (h *HTTP2Conn) Cancel(s *Stream) {
	h.Send(func(f *http2.Framer) error {
		s.canceled = true
		return f.WriteRSTStream(s.ID, http2.ErrCodeCancel)
	})
}

// Close ends the connection.
func (h *HTTP2Conn) Close() {
	_ = h.conn.Close()
	<-h.Done
}

// Wait waits until holds returns true.
func (h *HTTP2Conn) Wait(what string, holds func() bool) {
	h.t.Helper()
	timer := time.AfterFunc(testutil.Patience, h.abort)
	defer timer.Stop()
	h.mu.Lock()
	defer h.mu.Unlock()
	for !holds() {
		if h.Err != nil {
			h.t.Fatalf("waiting for this: %s; the connection has ended: %v; %s", what, h.Err, h.state())
		}
		h.changed.Wait()
	}
}

// state describes the streams that have not ended. Caller holds h.mu.
func (h *HTTP2Conn) state() string {
	var b strings.Builder
	fmt.Fprintf(&b, "window %d, GOAWAY %v, settings to be acknowledged: %v", h.flow.window, h.GoAway, h.flow.unacked)
	for id, s := range h.streams {
		if !s.Ended && !s.Reset {
			fmt.Fprintf(&b, "; stream %d: %d bytes, window %d", id, len(s.Body), s.Window)
		}
	}
	return b.String()
}
