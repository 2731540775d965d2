package http2body

import (
	"bytes"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"net"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

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
