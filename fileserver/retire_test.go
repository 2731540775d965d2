package fileserver

import (
	"bytes"
	"crypto/tls"
	"net"
	"net/http"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// clientFrames is what a client may send first, and where in it another frame
// may stand.
func clientFrames(t *testing.T) (stream []byte, places map[int]bool) {
	t.Helper()
	var b bytes.Buffer
	places = map[int]bool{}
	b.WriteString(http2.ClientPreface)
	framer := http2.NewFramer(&b, nil)
	framer.AllowIllegalWrites = true
	write := func(may bool, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		places[b.Len()] = may
	}
	write(true, framer.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 20}))
	write(true, framer.WriteWindowUpdate(0, 1<<20))
	write(false, framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: make([]byte, 300)}))
	write(false, framer.WriteContinuation(1, false, make([]byte, 5)))
	write(false, framer.WriteContinuation(1, false, nil))
	write(true, framer.WriteContinuation(1, true, make([]byte, 20_000)))
	write(true, framer.WriteData(1, false, make([]byte, 100_000)))
	write(true, framer.WriteData(1, true, nil))
	write(true, framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, EndHeaders: true, BlockFragment: make([]byte, 9)}))
	write(true, framer.WritePing(true, [8]byte{1}))
	return b.Bytes(), places
}

func TestInboundFrames(t *testing.T) {
	stream, places := clientFrames(t)
	for _, step := range []int{1, 2, 9, 4096, len(stream)} {
		var f inboundFrames
		for offset := 0; offset < len(stream); {
			n := min(step, len(stream)-offset)
			f.add(stream[offset : offset+n])
			offset += n
			if got := f.mayInsert(); got != places[offset] {
				t.Errorf("steps of %d: behind %d bytes %v, want %v", step, offset, got, places[offset])
			}
		}
	}
	// Who keeps to untilNext stops at each of the places.
	var f inboundFrames
	stops := map[int]bool{}
	for offset := 0; offset < len(stream); {
		n := min(f.untilNext(), frameHeaderLen, len(stream)-offset)
		f.add(stream[offset : offset+n])
		offset += n
		stops[offset] = true
	}
	for place := range places {
		if !stops[place] {
			t.Errorf("the beginning of a frame at %d was passed", place)
		}
	}
}

// The server reads a GOAWAY once, in the pieces that it asks for, when a frame
// may stand there.
func TestGoAwayIsRead(t *testing.T) {
	stream, _ := clientFrames(t)
	c := &Conn{protocol: protocolCheck{http2: true}}
	for _, b := range stream[:len(http2.ClientPreface)+1] {
		if n := c.readGoAway(make([]byte, 9)); n != 0 {
			t.Fatalf("%d bytes, too early", n)
		}
		c.frames.add([]byte{b})
	}
	c.frames.add(stream[len(http2.ClientPreface)+1:])
	var got bytes.Buffer
	for {
		p := make([]byte, 5)
		n := c.readGoAway(p)
		if n == 0 {
			break
		}
		got.Write(p[:n])
	}
	frame, err := http2.NewFramer(nil, &got).ReadFrame()
	if goAway, ok := frame.(*http2.GoAwayFrame); err != nil || !ok || goAway.ErrCode != http2.ErrCodeNo || goAway.LastStreamID != 0 || got.Len() > 0 {
		t.Errorf("read %v, %v, and %d bytes more", frame, err, got.Len())
	}
}

// A connection waits for a request between the first read deadline that net/http
// sets when it is idle and the second.
func TestIdleness(t *testing.T) {
	raw, other := net.Pipe()
	defer other.Close()
	c := newConn(ktls.NewServer(new(tls.Config), nil).Conn(raw), new(Server))
	state := func(s http.ConnState) { ConnState(stateConn{addr: c.LocalAddr()}, s) }
	deadline := func() { _ = c.SetReadDeadline(time.Time{}) }
	state(http.StateNew)
	for i, step := range []struct {
		do   func()
		want idleness
	}{
		{deadline, busy},
		{func() { state(http.StateActive) }, busy},
		{deadline, busy},
		{func() { state(http.StateIdle) }, beforeWaiting},
		{deadline, waiting},
		{deadline, busy},
		{deadline, busy},
		{func() { state(http.StateIdle) }, beforeWaiting},
		{deadline, waiting},
		{func() { state(http.StateClosed) }, busy},
		{func() { ConnState(stateConn{addr: &net.TCPAddr{}}, http.StateIdle) }, busy}, // none of ours
	} {
		step.do()
		if got := c.idle.Load(); got != step.want {
			t.Errorf("step %d: %d, want %d", i, got, step.want)
		}
	}
}

// stateConn is a connection as net/http has it, which may be wrapped.
type stateConn struct {
	net.Conn
	addr net.Addr
}

func (c stateConn) LocalAddr() net.Addr { return c.addr }

// However the stream is cut, the result is the same.
func FuzzInboundFrames(f *testing.F) {
	f.Add([]byte(http2.ClientPreface+"\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x01\x01\x00"), 30)
	f.Add([]byte(http2.ClientPreface), 3)
	f.Fuzz(func(t *testing.T, stream []byte, cut int) {
		var whole, parts inboundFrames
		whole.add(stream)
		cut = max(0, min(cut, len(stream)))
		parts.add(stream[:cut])
		parts.add(stream[cut:])
		if whole != parts {
			t.Errorf("cut at %d: %+v and %+v", cut, whole, parts)
		}
		if whole.untilNext() <= 0 {
			t.Errorf("%d bytes until the next frame", whole.untilNext())
		}
	})
}
