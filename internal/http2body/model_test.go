package http2body

import (
	"bytes"

	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
)

// streamID returns the number of the stream of a server's writer.
func streamID(w http.ResponseWriter) uint32 {
	v := reflect.ValueOf(w)
	if v.Kind() == reflect.Struct { // from Go 1.27 on, around the server's own
		v = v.FieldByName("ResponseWriter")
	}
	return uint32(v.Elem().FieldByName("rws").Elem().FieldByName("stream").Elem().FieldByName("id").Uint())
}

// A served is the net.Conn that an HTTP/2 server has.
type served struct {
	net.Conn // the wire's
	frames   *Conn
}

func (s *served) Read(p []byte) (int, error)        { return s.frames.Read(p) }
func (s *served) Write(p []byte) (int, error)       { return s.frames.Write(p) }
func (s *served) SetReadDeadline(t time.Time) error { return s.frames.SetReadDeadline(t) }
func (s *served) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

func (s *served) Close() error {
	s.frames.Close(nil)
	return s.Conn.Close()
}

// servers are those that a connection is tried with.
var servers = []string{"golang.org/x/net", "net/http"}

// serve has a server serve one connection, and returns the client's side of it, and
// the server's. writing is a testWire's.
func serve(t testing.TB, server string, writing func(frames int) error, handler func(*Conn, http.ResponseWriter, *http.Request)) (net.Conn, *Conn) {
	t.Helper()
	client, conn := net.Pipe()
	wire := &testWire{conn: conn, writing: writing}
	c := New(wire)
	wire.follows = c
	below := &served{conn, c}
	var handlers atomic.Int64
	served := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handlers.Add(1)
		defer handlers.Add(-1)
		handler(c, w, r)
	})
	done := make(chan struct{})
	t.Cleanup(func() {
		client.Close()
		<-done
		eventually(c, func() bool { return handlers.Load() == 0 })
	})
	if server != "net/http" {
		go func() {
			defer close(done)
			new(http2.Server).ServeConn(below, &http2.ServeConnOpts{ //nolint:staticcheck // it takes any connection
				Handler: served, BaseConfig: &http.Server{ErrorLog: discardLog},
			})
		}()
		return client, c
	}
	s := &http.Server{Handler: served, ErrorLog: discardLog, Protocols: new(http.Protocols)}
	s.Protocols.SetUnencryptedHTTP2(true)
	ln := &oneListener{conn: below, closed: make(chan struct{})}
	s.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			ln.Close()
		}
	}
	go func() {
		defer close(done)
		_ = s.Serve(ln)
	}()
	return client, c
}

// A oneListener accepts one connection.
type oneListener struct {
	conn   net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *oneListener) Accept() (net.Conn, error) {
	if conn := l.conn; conn != nil {
		l.conn = nil
		return conn, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}
func (l *oneListener) Addr() net.Addr { return &net.TCPAddr{} }
func (l *oneListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// A policy says when a client gives back window.
type policy string

const (
	atOnce  policy = "at once"
	atHalf  policy = "at half"
	usedUp  policy = "when all is used up"
	byBytes policy = "in single bytes"
)

// due returns how much a client gives that wants a window of size.
func (p policy) due(window, size int64) int64 {
	switch room := size - window; {
	case room <= 0, p == atHalf && 2*window > size, p == usedUp && window > 0, p == byBytes && window > 0:
		return 0
	case p == byBytes && window == 0:
		return 1
	default:
		return room
	}
}

// A modelStream is what a modelClient knows of a stream.
type modelStream struct {
	id      uint32
	want    []byte
	mayEnd  bool  // before its end, because the server resets it
	trailer bool  // it ends with trailers
	base    int64 // increments less payload
	policy  policy
	size    int64 // of the window that is wanted
	resetAt int64 // after so many bytes the client resets it; -1 for never

	got     int64
	headers int
	ended   bool // by the server
	reset   bool // by the client
	silent  bool // and the server knows
}

// A modelClient is an HTTP/2 client that keeps account of what it has granted.
type modelClient struct {
	t      testing.TB
	name   string
	random *mathrand.Rand
	conn   net.Conn
	server *Conn
	reads  *http2.Framer
	header *hpack.Decoder
	queue  chan []byte // to be written

	window  int64 // of the connection
	policy  policy
	size    int64
	late    bool // increments of the connection's window come a round trip late
	acked   int64
	pending []int64 // values of SETTINGS that the server has not acknowledged
	streams map[uint32]*modelStream
	pings   uint64
	answers map[uint64]func()
	changes int // of SETTINGS that are to come
}

func (m *modelClient) fatalf(format string, args ...any) {
	panic(modelError(fmt.Sprintf(format, args...)))
}

type modelError string

func (m *modelClient) send(write ...frame) { m.queue <- written(write...) }

// ping calls then when the server has read everything that was sent.
func (m *modelClient) ping(then func()) { m.queue <- m.newPing(then) }

// newPing returns a PING that is to be sent.
func (m *modelClient) newPing(then func()) []byte {
	m.pings++
	m.answers[m.pings] = then
	return written(func(f *http2.Framer) error {
		return f.WritePing(false, [8]byte([]byte(fmt.Sprintf("%08d", m.pings))))
	})
}

// initial is the largest initial window that the server may go by.
func (m *modelClient) initial() int64 { return max(m.acked, slices.Max(append(m.pending, 0))) }

// last is the one that it will go by.
func (m *modelClient) last() int64 {
	if len(m.pending) > 0 {
		return m.pending[len(m.pending)-1]
	}
	return m.acked
}

// setInitial sends SETTINGS, of which no window becomes too large, nor what the server
// takes for one that has got the most by increments.
func (m *modelClient) setInitial(n int64) {
	for _, s := range m.streams { // also of those that have ended
		n = max(min(n, maxWindow-s.base-s.got), 0)
	}
	m.pending = append(m.pending, n)
	m.send(initialSize(uint32(n)))
}

// grantStream gives what is due of a stream's window.
func (m *modelClient) grantStream(s *modelStream) {
	if n := s.policy.due(s.base+m.last(), s.size); n > 0 && !s.ended && !s.reset {
		n = min(n, maxWindow, maxWindow-m.initial()-s.base)
		if n > 0 {
			s.base += n
			m.send(update(s.id, uint32(n)))
		}
	}
}

// grant gives what is due of the connection's window.
func (m *modelClient) grant() {
	if n := m.policy.due(m.window, m.size); n > 0 {
		m.window += n
		m.send(update(0, uint32(n)))
	}
}

// request asks for a response.
func (m *modelClient) request(s *modelStream, header map[string]string) {
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	encoder.SetMaxDynamicTableSize(0)
	for _, name := range []string{":method", ":scheme", ":path", ":authority"} {
		_ = encoder.WriteField(hpack.HeaderField{Name: name, Value: map[string]string{
			":method": "GET", ":scheme": "http", ":path": "/", ":authority": "localhost",
		}[name]})
	}
	for _, name := range slices.Sorted(maps.Keys(header)) {
		_ = encoder.WriteField(hpack.HeaderField{Name: name, Value: header[name]})
	}
	m.streams[s.id] = s
	m.send(func(f *http2.Framer) error {
		return f.WriteHeaders(http2.HeadersFrameParam{StreamID: s.id, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
	})
	m.grantStream(s)
}

// open reports whether a stream is still to end.
func (m *modelClient) open() bool {
	for _, s := range m.streams {
		if !s.ended && !s.silent {
			return true
		}
	}
	return false
}

// run reads until all streams have ended, and everything was acknowledged.
func (m *modelClient) run() {
	for m.open() || len(m.answers) > 0 || len(m.pending) > 0 {
		f, err := m.reads.ReadFrame()
		if err != nil {
			m.fatalf("reading: %v", err)
		}
		m.frame(f)
		// Before it has acknowledged one, the server would answer two at once.
		if m.changes > 0 && len(m.pending) == 0 && m.random.IntN(20) == 0 {
			m.changes--
			m.setInitial([]int64{0, 1, 100, initialWindow, 1 << 20, maxWindow}[m.random.IntN(6)])
		}
		if m.changes > 0 && m.random.IntN(30) == 0 {
			m.ping(func() {})
		}
	}
}

func (m *modelClient) frame(f http2.Frame) {
	switch f := f.(type) {
	case *http2.DataFrame:
		m.data(f)
	case *http2.HeadersFrame:
		s := m.stream(f.StreamID)
		s.headers++
		fields := 0
		m.header.SetEmitFunc(func(hpack.HeaderField) { fields++ })
		if _, err := m.header.Write(f.HeaderBlockFragment()); err != nil || !f.HeadersEnded() {
			m.fatalf("stream %d: header block: %v", s.id, err)
		}
		if f.StreamEnded() {
			m.end(s)
		}
	case *http2.RSTStreamFrame:
		if s := m.stream(f.StreamID); !s.mayEnd && !s.reset {
			m.fatalf("stream %d is reset after %d of %d bytes: %v", s.id, s.got, len(s.want), f.ErrCode)
		} else {
			s.ended = true
		}
	case *http2.SettingsFrame:
		if !f.IsAck() {
			m.send((*http2.Framer).WriteSettingsAck)
			return
		}
		if len(m.pending) == 0 {
			m.fatalf("SETTINGS are acknowledged that were not sent")
		}
		m.acked = m.pending[0]
		m.pending = m.pending[1:]
		for _, id := range slices.Sorted(maps.Keys(m.streams)) { // in a fixed order
			m.grantStream(m.streams[id])
		}
	case *http2.PingFrame:
		number, _ := strconv.ParseUint(string(f.Data[:]), 10, 64)
		then := m.answers[number]
		if !f.IsAck() || then == nil {
			m.fatalf("PING %q", f.Data)
		}
		delete(m.answers, number)
		then()
	case *http2.GoAwayFrame:
		m.fatalf("GOAWAY %v %q", f.ErrCode, f.DebugData())
	}
}

// stream returns a stream on which the server may send.
func (m *modelClient) stream(id uint32) *modelStream {
	s := m.streams[id]
	if s == nil || s.ended || s.silent {
		m.fatalf("a frame on stream %d, which has ended", id)
	}
	return s
}

func (m *modelClient) data(f *http2.DataFrame) {
	s, n := m.stream(f.StreamID), int64(f.Length)
	if m.window -= n; m.window < 0 && n > 0 {
		m.fatalf("stream %d: %d bytes more than the connection's window", s.id, -m.window)
	}
	s.base -= n
	if window := s.base + m.initial(); window < 0 && n > 0 && !s.reset {
		m.fatalf("stream %d: %d bytes more than its window", s.id, -window)
	}
	if !s.reset {
		if s.headers == 0 {
			m.fatalf("stream %d: DATA before the header", s.id)
		}
		p := f.Data()
		if end := s.got + int64(len(p)); end > int64(len(s.want)) || !bytes.Equal(p, s.want[s.got:end]) {
			m.fatalf("stream %d: other bytes than %d to %d of %d", s.id, s.got, end, len(s.want))
		}
		s.got += int64(len(p))
		if f.StreamEnded() {
			m.end(s)
		}
		if s.resetAt >= 0 && s.got >= s.resetAt && !s.ended {
			s.reset = true
			m.send(reset(s.id))
			m.ping(func() { s.silent = true })
		}
	} else if f.StreamEnded() {
		s.ended = true
	}
	m.grantStream(s)
	if m.late && m.random.IntN(2) == 0 {
		m.ping(m.grant)
	} else {
		m.grant()
	}
}

func (m *modelClient) end(s *modelStream) {
	if s.ended = true; s.reset {
		return
	}
	if s.got != int64(len(s.want)) {
		m.fatalf("stream %d ends after %d of %d bytes", s.id, s.got, len(s.want))
	}
	if want := 1 + btoi(s.trailer); s.headers != want {
		m.fatalf("stream %d: %d header blocks, want %d", s.id, s.headers, want)
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// dump tells how the connection stands.
func (m *modelClient) dump() string {
	c := m.server
	var b strings.Builder
	c.mu.Lock()
	fmt.Fprintf(&b, "ledger %+v\nbusy %v writing %v between %v servers %d awaiting %d stopped %v err %v\n",
		c.ledger, c.busy, c.writing, c.between, len(c.servers), c.awaiting, c.stopped, c.err)
	for _, s := range c.queue {
		fmt.Fprintf(&b, "queue: %d\n", s.id)
	}
	if c.filling != nil {
		fmt.Fprintf(&b, "filling: %d\n", c.filling.id)
	}
	for id, s := range c.streams {
		fmt.Fprintf(&b, "%d: window %d %+v taken %v need %d queued %v turn %v\n",
			id, c.streamWindow(&s.account), s.account, s.taken, s.need, s.queued, s.turn)
	}
	c.mu.Unlock()
	stacks := make([]byte, 1<<20)
	return b.String() + string(stacks[:runtime.Stack(stacks, true)])
}

// A modelSite serves the model's responses. What a request asks for is in its header.
type modelSite struct {
	t    testing.TB
	file *os.File
	body []byte
}

func number(r *http.Request, name string) int64 {
	n, _ := strconv.ParseInt(r.Header.Get(name), 10, 64)
	return n
}

var discardLog = newDiscardLog()

func (s *modelSite) handle(c *Conn, w http.ResponseWriter, r *http.Request) {
	random := mathrand.New(mathrand.NewPCG(uint64(number(r, "seed")), 3))
	offset := number(r, "offset")
	size := number(r, "size")
	body := s.body[offset : offset+size]
	trailer := r.Header.Get("trailers") != ""
	if trailer {
		w.Header().Set("Trailer", "X-End")
		defer w.Header().Set("X-End", "yes")
	}
	kind := r.Header.Get("kind")
	if kind != "streamed" {
		w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	}
	pieces := func(n int) int { return 1 + random.IntN(1+random.IntN(max(n, 1))) }
	switch kind {
	case "small", "streamed":
		for len(body) > 0 {
			n, err := w.Write(body[:min(len(body), pieces(40_000))])
			if body = body[n:]; err != nil {
				return
			}
			if random.IntN(3) == 0 && http.NewResponseController(w).Flush() != nil {
				return
			}
		}
		return
	}
	stream, err := c.Stream(streamID(w))
	if err != nil { // reset already
		return
	}
	n, err := w.Write(body[:min(size, 512)])
	if err != nil || int64(n) == size {
		return
	}
	err = stream.AwaitServer(w, int64(n))
	if err != nil {
		return
	}
	stream.Take()
	fail := number(r, "fail")
	for at := int64(n); at < size && err == nil; {
		if fail > 0 && at >= fail {
			if kind == "abort" {
				panic(http.ErrAbortHandler)
			}
			_ = http.NewResponseController(w).SetWriteDeadline(time.Unix(1, 0))
			fail = 0
		}
		var m int64
		switch m = min(size-at, int64(pieces(300_000))); {
		case kind == "bytes" || kind == "mixed" && random.IntN(2) == 0:
			var k int
			k, err = stream.Write(body[at:at+m], at+m == size)
			m = int64(k)
			if err == nil && random.IntN(4) == 0 {
				err = stream.Flush()
			}
		default:
			ahead := min(size-at-m, int64(random.IntN(2)*pieces(200_000)))
			var sent filerange.Sent
			sent, err = stream.SendFile(filerange.Segment{File: s.file, Offset: offset + at, Len: m, Ahead: ahead})
			m = sent.Total()
		}
		at += m
	}
	if err == nil {
		err = stream.Flush()
	}
	if err != nil {
		if r.Header.Get("whole") != "" && !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.ErrClosedPipe) {
			s.t.Errorf("%s of %d bytes: %v", kind, size, err)
		}
		panic(http.ErrAbortHandler)
	}
}

// newModel returns a client of a server.
func newModel(t testing.TB, name, server string, site *modelSite, seed uint64, writing func(frames int) error) *modelClient {
	client, conn := serve(t, server, writing, site.handle)
	m := &modelClient{
		t: t, name: name, random: mathrand.New(mathrand.NewPCG(seed, 1)), conn: client, server: conn,
		reads: http2.NewFramer(nil, client), header: hpack.NewDecoder(4096, nil),
		queue:  make(chan []byte, 1<<20),
		window: initialWindow, policy: atOnce, size: initialWindow, acked: initialWindow,
		streams: map[uint32]*modelStream{}, answers: map[uint64]func(){},
	}
	go func() {
		for b := range m.queue {
			if _, err := client.Write(b); err != nil {
				return
			}
		}
	}()
	m.queue <- []byte(http2.ClientPreface)
	return m
}

// hang is how long a client may take: far more than it needs.
const hang = time.Minute

// finish runs the client, and fails the test if it hangs.
func (m *modelClient) finish() {
	m.t.Helper()
	failed := make(chan string, 1)
	go func() {
		defer func() {
			message, bad := recover().(modelError)
			if bad {
				failed <- string(message)
			}
			close(failed)
		}()
		m.run()
	}()
	select {
	case message, bad := <-failed:
		if bad {
			text := m.dump()
			m.conn.Close()
			m.t.Fatalf("%s: %s\n%s\n%s", m.name, message, m.describe(), text)
		}
	case <-time.After(hang):
		text := m.dump()
		m.conn.Close()
		<-failed
		m.t.Fatalf("%s hangs, window %d of %d %q, acked %d, pending %v, answers %d\n%s\n%s",
			m.name, m.window, m.size, m.policy, m.acked, m.pending, len(m.answers), m.describe(), text)
	}
}

func (m *modelClient) describe() string {
	var b strings.Builder
	for _, id := range slices.Sorted(maps.Keys(m.streams)) {
		s := m.streams[id]
		fmt.Fprintf(&b, "%d: %d of %d, window %d of %d %q, ended %v reset %v\n",
			id, s.got, len(s.want), s.base+m.last(), s.size, s.policy, s.ended, s.reset)
	}
	return b.String()
}

func newSite(t testing.TB) *modelSite {
	body := randomBytes(9<<20, 1)
	return &modelSite{t: t, body: body, file: openFile(t, body)}
}

// pick returns one of several.
func pick[T any](random *mathrand.Rand, from ...T) T { return from[random.IntN(len(from))] }

// ask asks for a body of a kind, which must come whole.
func (m *modelClient) ask(site *modelSite, id uint32, kind string, size int64, p policy, window int64) {
	offset := m.random.Int64N(int64(len(site.body)) - size)
	m.request(
		&modelStream{id: id, want: site.body[offset : offset+size], resetAt: -1, policy: p, size: window},
		map[string]string{
			"kind": kind, "size": fmt.Sprint(size), "offset": fmt.Sprint(offset), "whole": "yes", "seed": fmt.Sprint(id),
		},
	)
}

// begin sends the first frames, and grants window.
func (m *modelClient) begin(initial, window int64, p policy) {
	m.pending = append(m.pending, initial)
	m.send(initialSize(uint32(initial)))
	m.size, m.policy = window, p
	m.grant()
}

// randomModel has a client with random habits ask for random responses.
func randomModel(t testing.TB, site *modelSite, server string, seed uint64) {
	m := newModel(t, fmt.Sprintf("%s, seed %d", server, seed), server, site, seed, nil)
	random := m.random
	sizes := []int64{1, 100, 16_383, 16_384, 16_385, initialWindow, 1 << 20, maxWindow}
	policies := []policy{atOnce, atHalf, usedUp, byBytes}
	m.size, m.policy, m.late = pick(random, sizes...), pick(random, policies...), random.IntN(3) == 0
	streamSize := pick(random, sizes...)
	most := int64(3 << 20)
	if min(m.size, streamSize) <= 100 || m.policy == byBytes {
		most = 5000
	} else if min(m.size, streamSize) < initialWindow {
		most = 300_000
	}
	m.begin(pick(random, streamSize, m.acked), m.size, m.policy)
	m.changes = random.IntN(3) * random.IntN(6)
	for i := range 1 + random.IntN(8) {
		size := 1 + random.Int64N(1+random.Int64N(most))
		offset := random.Int64N(int64(len(site.body)) - size)
		s := &modelStream{
			id: uint32(2*i + 1), want: site.body[offset : offset+size], resetAt: -1,
			policy: pick(random, policies...), size: streamSize,
		}
		if s.policy == byBytes && size > 5000 {
			s.policy = atOnce
		}
		kind := pick(random, "file", "file", "bytes", "mixed", "small", "streamed", "deadline", "abort")
		header := map[string]string{
			"kind": kind, "size": fmt.Sprint(size), "offset": fmt.Sprint(offset), "seed": fmt.Sprint(random.Uint32()),
		}
		switch {
		case kind == "deadline" || kind == "abort":
			s.mayEnd = true
			header["fail"] = fmt.Sprint(1 + random.Int64N(size))
		case random.IntN(4) == 0:
			s.resetAt = random.Int64N(size)
		default:
			header["whole"] = "yes"
		}
		if random.IntN(4) == 0 {
			s.trailer = true
			header["trailers"] = "yes"
		}
		m.request(s, header)
	}
	m.finish()
	m.conn.Close()
	c := m.server
	done(t, "the end of all streams", func() {
		eventually(c, func() bool { return len(c.queue) == 0 && c.filling == nil && c.reserved == 0 })
	})
}

// Whatever a client grants, and when, it gets every body whole, and never a byte more
// than it has granted. KTLS_LONG asks for many clients, KTLS_SEED for the first of them.
func TestModel(t *testing.T) {
	clients, first := uint64(40), uint64(0)
	if os.Getenv("KTLS_LONG") != "" {
		clients = 1500
	}
	if text := os.Getenv("KTLS_SEED"); text != "" {
		var err error
		first, err = strconv.ParseUint(text, 10, 64)
		must(t, err)
	}
	site := newSite(t)
	for _, server := range servers {
		t.Run(server, func(t *testing.T) {
			for seed := range clients {
				t.Run(fmt.Sprint(first+seed), func(t *testing.T) {
					randomModel(t, site, server, first+seed)
				})
			}
		})
	}
}

// Every stream that waits and could send gets its turn, whoever sends its body.
func TestShares(t *testing.T) {
	site := newSite(t)
	// Of the server's own there is one: between several it chooses itself.
	kinds := []string{"file", "streamed", "bytes", "file", "mixed"}
	for _, server := range servers {
		for _, tt := range []struct {
			name            string
			initial, window int64
			policy          policy
		}{
			{"large windows", maxWindow, maxWindow, atOnce},
			{"one window for all", 1 << 20, 1 << 20, atHalf},
			{"the least window", initialWindow, initialWindow, usedUp},
		} {
			t.Run(server+", "+tt.name, func(t *testing.T) {
				var m *modelClient
				turns := map[*Stream]int{} // since a stream began to wait
				m = newModel(t, tt.name, server, site, 1, func(frames int) error {
					if frames == 0 {
						return nil
					}
					c := m.server
					c.mu.Lock()
					defer c.mu.Unlock()
					waiting := map[*Stream]int{}
					for _, s := range c.queue {
						if c.free(&s.account) > 0 {
							waiting[s] = turns[s] + 1
						}
						if waiting[s] > 2*len(kinds) {
							t.Errorf("stream %d has waited for %d turns", s.id, waiting[s])
						}
					}
					turns = waiting
					return nil
				})
				m.begin(tt.initial, tt.window, tt.policy)
				for i, kind := range kinds {
					m.ask(site, uint32(2*i+1), kind, 3<<20, atHalf, tt.initial)
				}
				m.finish()
			})
		}
	}
}

// A PING is answered before more than one turn's frames, however much is to be sent.
func TestPing(t *testing.T) {
	site := newSite(t)
	for _, server := range servers {
		for _, kind := range []string{"file", "bytes"} {
			t.Run(server+", "+kind, func(t *testing.T) {
				var m *modelClient
				var mu sync.Mutex
				sent, before, answered := 0, 0, 0
				var probe []byte
				m = newModel(t, kind, server, site, 1, func(frames int) error {
					mu.Lock()
					defer mu.Unlock()
					switch {
					case frames == 0 && before > 0 && answered == 0:
						answered = sent - before
					case frames > 0 && before == 0 && sent >= 20:
						before = sent
						m.queue <- probe
						eventually(m.server, func() bool { return len(m.server.servers) > 0 })
					}
					sent += frames
					return nil
				})
				probe = m.newPing(func() {})
				m.begin(maxWindow, maxWindow, atOnce)
				// Of these none is finished before.
				m.ask(site, 1, kind, 4<<20, atOnce, maxWindow)
				m.ask(site, 3, kind, 4<<20, atOnce, maxWindow)
				m.finish()
				if answered < 1 || answered > turnFrames {
					t.Errorf("%d frames of ours went out before the answer", answered)
				}
			})
		}
	}
}

// A body of the server's that waits for window gets it though a stream that was taken
// over waits as well, and the client grants a byte at a time.
func TestSingleBytes(t *testing.T) {
	site := newSite(t)
	for _, server := range servers {
		t.Run(server, func(t *testing.T) {
			m := newModel(t, server, server, site, 1, nil)
			m.begin(initialWindow, 1, byBytes)
			for i, kind := range []string{"file", "small", "bytes"} {
				m.ask(site, uint32(2*i+1), kind, 23_000, atOnce, initialWindow)
			}
			m.finish()
		})
	}
}

func newDiscardLog() *log.Logger { return log.New(io.Discard, "", 0) }
