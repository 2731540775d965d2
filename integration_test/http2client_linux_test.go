package integration_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// An h2Conn is a client's connection of HTTP/2 that holds the server to the
// windows and the frame size that it gives. Settings count from their
// acknowledgment on.
type h2Conn struct {
	t    testing.TB
	conn *tls.Conn
	done chan struct{} // closed when nothing is read any more

	mu         sync.Mutex // guards what follows
	changed    *sync.Cond
	framer     *http2.Framer
	encoder    *hpack.Encoder
	block      bytes.Buffer // what encoder writes
	streams    map[uint32]*h2Response
	next       uint32
	windows    h2Windows
	window     int64           // of the connection
	initial    int64           // of streams
	maxFrame   uint32          // as acknowledged
	unacked    []http2.Setting // sent last
	pings      int             // that were answered
	goAway     *http2.GoAwayFrame
	readingErr error
}

// h2Windows say how windows begin and how they are opened.
type h2Windows struct {
	initial, maxFrame uint32
	// By how much a window is opened when less is left of it; 0: never. If it is
	// negative, the window is opened when nothing is left.
	stream, connection int64
}

// wide lets the server send what it likes.
var wide = h2Windows{initial: 1 << 30, maxFrame: 16384, connection: 1 << 24}

// due tells by how much a window of that many bytes is to be opened, 0 if it is not
// time to.
func due(window, by int64) int64 {
	switch {
	case by < 0 && window <= 0:
		return -by
	case window < by:
		return by
	}
	return 0
}

// These are the payloads of whole DATA frames that the module makes itself, from files
// and from memory; the HTTP/2 server fills frames.
const (
	ownFileFrame = 16_368
	ownFrame     = 16_375
)

// An h2Response is what has come on a stream.
type h2Response struct {
	id     uint32
	own    int // frames of the module's own, as far as they are whole
	window int64
	status string
	header http.Header
	body   []byte
	ended  bool
	reset  bool // by the server
	code   http2.ErrCode

	canceled bool // by the client, which takes no notice of what comes then
}

// openHTTP2 opens a connection.
func (c *caddy) openHTTP2(t testing.TB, windows h2Windows) *h2Conn {
	t.Helper()
	config := c.tlsConfig(t)
	config.NextProtos = []string{http2.NextProtoTLS}
	return newH2Conn(t, c.dial(t, config), windows)
}

func newH2Conn(t testing.TB, conn *tls.Conn, windows h2Windows) *h2Conn {
	t.Helper()
	h := &h2Conn{
		t: t, conn: conn, done: make(chan struct{}), next: 1, windows: windows,
		streams: map[uint32]*h2Response{}, window: initialWindow, initial: initialWindow, maxFrame: 16384,
	}
	h.changed = sync.NewCond(&h.mu)
	h.encoder = hpack.NewEncoder(&h.block)
	h.framer = http2.NewFramer(conn, conn)
	h.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	h.framer.SetMaxReadFrameSize(1<<24 - 1)
	_, err := io.WriteString(conn, http2.ClientPreface)
	must(t, err)
	h.configure(
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: windows.initial},
		http2.Setting{ID: http2.SettingMaxFrameSize, Val: windows.maxFrame})
	h.send(func(*http2.Framer) error { h.open(nil); return nil })
	go h.readAll()
	t.Cleanup(func() {
		_ = conn.NetConn().Close()
		<-h.done
	})
	return h
}

// send writes frames. The connection may be gone: reading tells.
func (h *h2Conn) send(write func(*http2.Framer) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	_ = write(h.framer)
}

// configure sends settings. Those before it have to be acknowledged.
func (h *h2Conn) configure(settings ...http2.Setting) {
	h.send(func(f *http2.Framer) error {
		h.unacked = settings
		return f.WriteSettings(settings...)
	})
}

// settled waits until the settings are acknowledged.
func (h *h2Conn) settled() {
	h.t.Helper()
	h.wait("the settings are acknowledged", func() bool { return h.unacked == nil })
}

// acknowledged puts the settings into force. h.mu is held.
func (h *h2Conn) acknowledged() {
	settings := h.unacked
	h.unacked = nil
	for _, setting := range settings {
		switch setting.ID {
		case http2.SettingMaxFrameSize:
			h.maxFrame = setting.Val
		case http2.SettingInitialWindowSize:
			grown := int64(setting.Val) - h.initial
			h.initial += grown
			for _, s := range h.streams {
				s.window += grown
				h.open(s)
			}
		}
	}
}

// open opens a stream's window, or the connection's, if it is time to. h.mu is
// held.
func (h *h2Conn) open(s *h2Response) {
	if s == nil {
		if n := due(h.window, h.windows.connection); n > 0 {
			h.grant(nil, n)
		}
	} else if n := due(s.window, h.windows.stream); n > 0 && !s.ended && h.unacked == nil {
		h.grant(s, n)
	}
}

// grant opens a stream's window, or the connection's, by n bytes. h.mu is held.
func (h *h2Conn) grant(s *h2Response, n int64) {
	id, window := uint32(0), &h.window
	if s != nil {
		id, window = s.id, &s.window
	}
	*window += n
	_ = h.framer.WriteWindowUpdate(id, uint32(n))
}

// widen opens all windows wide from now on.
func (h *h2Conn) widen() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.windows.stream, h.windows.connection = 1<<24, 1<<24
	h.open(nil)
	for _, s := range h.streams {
		h.open(s)
	}
}

// request begins a stream. Headers come in pairs. A POST has the body "posted".
func (h *h2Conn) request(method, path string, headers ...string) *h2Response {
	posts := method == http.MethodPost
	s := h.begin(http2.PriorityParam{}, !posts, h.fields(method, path, headers...)...)
	if posts {
		h.send(func(f *http2.Framer) error { return f.WriteData(s.id, true, []byte("posted")) })
	}
	return s
}

func (*h2Conn) fields(method, path string, headers ...string) []string {
	return append([]string{":method", method, ":scheme", "https", ":authority", "localhost", ":path", path}, headers...)
}

// begin begins a stream, whose request may be whole with it.
func (h *h2Conn) begin(priority http2.PriorityParam, whole bool, fields ...string) *h2Response {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &h2Response{id: h.next, window: h.initial, header: http.Header{}}
	h.next += 2
	h.streams[s.id] = s
	h.block.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = h.encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	_ = h.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: s.id, BlockFragment: h.block.Bytes(), EndHeaders: true, EndStream: whole, Priority: priority,
	})
	h.open(s)
	return s
}

func (h *h2Conn) get(path string) *h2Response { return h.request(http.MethodGet, path) }

// cancel resets a stream.
func (h *h2Conn) cancel(s *h2Response) {
	h.send(func(f *http2.Framer) error {
		s.canceled = true
		return f.WriteRSTStream(s.id, http2.ErrCodeCancel)
	})
}

func (h *h2Conn) readAll() {
	defer close(h.done)
	for {
		frame, err := h.framer.ReadFrame()
		h.mu.Lock()
		if err == nil {
			h.frame(frame)
		}
		h.readingErr = err
		h.changed.Broadcast()
		h.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// frame takes one of the server's frames. h.mu is held.
func (h *h2Conn) frame(frame http2.Frame) {
	s := h.streams[frame.Header().StreamID]
	switch f := frame.(type) {
	case *http2.MetaHeadersFrame:
		s.status = f.PseudoValue("status")
		for _, field := range f.RegularFields() {
			s.header.Add(field.Name, field.Value)
		}
		s.ended = s.ended || f.StreamEnded()
	case *http2.DataFrame:
		s.window -= int64(f.Length)
		h.window -= int64(f.Length)
		if f.Length > h.maxFrame || f.Length > 0 && (s.window < 0 || h.window < 0) || s.ended || s.reset {
			h.t.Errorf("stream %d: a frame of %d bytes, of at most %d, leaves the windows %d and %d; ended %v, reset %v",
				s.id, f.Length, h.maxFrame, s.window, h.window, s.ended, s.reset)
		}
		s.body = append(s.body, f.Data()...)
		if f.Length == ownFrame || f.Length == ownFileFrame {
			s.own++
		}
		s.ended = s.ended || f.StreamEnded()
		h.open(s)
		h.open(nil)
	case *http2.RSTStreamFrame:
		s.reset, s.code = true, f.ErrCode
	case *http2.SettingsFrame:
		if f.IsAck() {
			h.acknowledged()
		} else {
			_ = h.framer.WriteSettingsAck()
		}
	case *http2.PingFrame:
		h.pings++
	case *http2.GoAwayFrame:
		h.goAway = f
	}
}

// wait waits until something holds.
func (h *h2Conn) wait(what string, holds func() bool) {
	h.t.Helper()
	timer := time.AfterFunc(patience, func() { _ = h.conn.NetConn().Close() })
	defer timer.Stop()
	h.mu.Lock()
	defer h.mu.Unlock()
	for !holds() {
		if h.readingErr != nil {
			h.t.Fatalf("waiting for this: %s; the connection has ended: %v; %s", what, h.readingErr, h.state())
		}
		h.changed.Wait()
	}
}

// state tells of the streams that have not ended. h.mu is held.
func (h *h2Conn) state() string {
	var b strings.Builder
	fmt.Fprintf(&b, "window %d, GOAWAY %v, settings to be acknowledged: %v", h.window, h.goAway, h.unacked)
	for id, s := range h.streams {
		if !s.ended && !s.reset {
			fmt.Fprintf(&b, "; stream %d: %d bytes, window %d", id, len(s.body), s.window)
		}
	}
	return b.String()
}

// begun waits until so many bytes of a body have come.
func (h *h2Conn) begun(s *h2Response, n int) {
	h.t.Helper()
	h.wait(fmt.Sprintf("stream %d has %d bytes", s.id, n), func() bool { return len(s.body) >= n || s.reset })
}

// wantBody waits for the end of a stream and fails the test if something else
// has come.
func (h *h2Conn) wantBody(s *h2Response, status int, body digest) {
	h.t.Helper()
	h.wait(fmt.Sprintf("stream %d ends", s.id), func() bool { return s.ended || s.reset })
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.status != fmt.Sprint(status) || s.reset {
		h.t.Errorf("stream %d: status %s, reset %v (%v), want status %d", s.id, s.status, s.reset, s.code, status)
	}
	if got := digestOf(s.body); got != body {
		h.t.Errorf("stream %d: body has %v, want %v", s.id, got, body)
	}
}

// wantOwnFrames fails the test unless the module has sent most of a body itself.
func (h *h2Conn) wantOwnFrames(s *h2Response) {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if 2*s.own*ownFileFrame < len(s.body) {
		h.t.Errorf("stream %d: %d of its frames are the module's own, for %d bytes; %v", s.id, s.own, len(s.body), s.header)
	}
}

func (h *h2Conn) wantFile(s *h2Response, f file) {
	h.t.Helper()
	h.wantBody(s, http.StatusOK, f.digest)
}

// wantPrefix fails the test if a stream has brought anything but the beginning of
// its file. It returns how much it was.
func (h *h2Conn) wantPrefix(s *h2Response, f file) int64 {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if !bytes.HasPrefix(f.content, s.body) {
		h.t.Errorf("stream %d has brought %d bytes that are not its file's", s.id, len(s.body))
	}
	if s.ended && !s.canceled && len(s.body) != len(f.content) {
		h.t.Errorf("stream %d has ended after %d bytes of %d", s.id, len(s.body), len(f.content))
	}
	return int64(len(s.body))
}

// close ends the connection.
func (h *h2Conn) close() {
	_ = h.conn.Close()
	<-h.done
}
