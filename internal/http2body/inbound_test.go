package http2body

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// setting is the payload of SETTINGS, with values that the framer would not write.
func setting(pairs ...uint32) []byte {
	var b []byte
	for i := 0; i < len(pairs); i += 2 {
		b = binary.BigEndian.AppendUint16(b, uint16(pairs[i]))
		b = binary.BigEndian.AppendUint32(b, pairs[i+1])
	}
	return b
}

func increment(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

// The server reads what its client has sent, but for windows: of the connection's it is
// told what it is to have, and of those of streams that were taken over (1) nothing.
func TestInbound(t *testing.T) {
	initial := uint32(http2.SettingInitialWindowSize)
	for _, tt := range []struct {
		name string
		sent []frame
		want []frame // nil for the same
	}{
		{name: "settings", sent: []frame{settings(), initialSize(1), initialSize(maxWindow)}},
		{name: "acknowledged settings", sent: []frame{(*http2.Framer).WriteSettingsAck}},
		{name: "several settings", sent: []frame{raw(http2.FrameSettings, 0, 0, setting(1, 4096, initial, 0, 99, 5, initial, 7))}},
		{name: "too large a setting", sent: []frame{raw(http2.FrameSettings, 0, 0, setting(initial, 1<<31))}},
		{name: "settings of a wrong length", sent: []frame{raw(http2.FrameSettings, 0, 0, make([]byte, 7))}},
		{name: "too many settings", sent: []frame{raw(http2.FrameSettings, 0, 0, bytes.Repeat(setting(initial, 9), 101))}},
		{name: "settings that acknowledge and set", sent: []frame{raw(http2.FrameSettings, http2.FlagSettingsAck, 0, setting(initial, 5))}},
		{name: "settings too large for a stream", sent: []frame{update(1, maxWindow-initialWindow), initialSize(initialWindow + 1)}, want: []frame{
			initialSize(initialWindow + 1), update(0, maxWindow), update(0, maxWindow),
		}},
		{name: "settings just small enough for a stream", sent: []frame{update(1, maxWindow-initialWindow-1), initialSize(initialWindow + 1)}, want: []frame{
			initialSize(initialWindow + 1),
		}},
		{name: "settings too large for a stream of the server", sent: []frame{update(3, maxWindow-initialWindow), initialSize(initialWindow + 1)}},
		{name: "other frames", sent: []frame{
			ping,
			func(f *http2.Framer) error {
				return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 7, BlockFragment: make([]byte, 300)})
			},
			func(f *http2.Framer) error { return f.WriteContinuation(7, true, make([]byte, 16_000)) },
			data(7, true, make([]byte, 100_000)),
			data(9, true, nil),
			reset(9),
			func(f *http2.Framer) error { return f.WriteGoAway(0, http2.ErrCodeNo, []byte("bye")) },
			func(f *http2.Framer) error { return f.WritePriority(11, http2.PriorityParam{StreamDep: 3}) },
			raw(0xbe, 0xff, math.MaxUint32, []byte("unknown")),
		}},
		{name: "more of the connection's window", sent: []frame{update(0, 100_000), update(0, 1)}, want: []frame{}},
		{name: "streams", sent: []frame{update(1, 5), update(3, 7), update(5, 9)}, want: []frame{update(3, 7), update(5, 9)}},
		{name: "nothing", sent: []frame{update(0, 0), update(1, 0), update(3, 0), update(5, 0)}},
		{name: "reserved bit", sent: []frame{raw(http2.FrameWindowUpdate, 0, 3, increment(1<<31|5))}},
		{name: "reserved bit and nothing", sent: []frame{raw(http2.FrameWindowUpdate, 0, 1, increment(1<<31))}},
		{name: "wrong lengths", sent: []frame{
			raw(http2.FrameWindowUpdate, 0, 1, nil), raw(http2.FrameWindowUpdate, 0, 0, make([]byte, 3)),
			raw(http2.FrameWindowUpdate, 0, 1, make([]byte, 5)), raw(http2.FrameRSTStream, 0, 7, make([]byte, 5)),
		}},
		{
			name: "too much for the connection", sent: []frame{update(0, maxWindow-initialWindow), update(0, 1)},
			want: []frame{update(0, serverShare/2-initialWindow+serverShare/2), update(0, maxWindow), update(0, maxWindow)},
		},
		{
			name: "too much for a stream that was taken over", sent: []frame{update(1, maxWindow-initialWindow), update(1, 1)},
			want: []frame{update(1, maxWindow), update(1, maxWindow)},
		},
		{name: "too much for the server's stream", sent: []frame{update(3, maxWindow-initialWindow), update(3, 1)}},
		{name: "a stream that has ended", sent: []frame{reset(1), update(1, 5)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := tt.want
			if want == nil {
				want = tt.sent
			}
			for _, n := range []int{1, 2, 9, 10, 1000, 1 << 20} {
				s, _ := newConn()
				s.take(t, 1)
				s.open(3)
				if got := readInbound(s.conn, written(tt.sent...), n); !bytes.Equal(got, written(want...)) {
					t.Errorf("in pieces of %d the server reads\n%x, want\n%x", n, got, written(want...))
				}
			}
		})
	}
}

// While no stream is taken over, and the client grants no more than the server is to
// have, the server reads every byte as it was sent.
func TestInboundUntouched(t *testing.T) {
	sent := fromClient(settings(), update(0, 1000), headers(1, false), update(1, 5), data(1, true, make([]byte, 100)), update(0, 900_000), reset(1), update(3, 9))
	for _, n := range []int{1, 7, 1000} {
		if got := readInbound(New(new(testWire)), sent, n); !bytes.Equal(got, sent) {
			t.Errorf("in pieces of %d the server reads\n%x", n, got)
		}
	}
}

// A client that grants much has the server told of its share only, and of more when it
// has used half of that.
func TestInboundHoldsBack(t *testing.T) {
	s, _ := newConn()
	s.open(1)
	s.receive(update(0, 1<<30))
	if s.window != serverShare {
		t.Fatalf("the server has %d bytes, want %d", s.window, serverShare)
	}
	s.receive(update(1, 1<<30))
	testutil.Must(t, s.write(1, false, make([]byte, serverShare/2)))
	if got := readInbound(s.conn, nil, 1); len(got) > 0 {
		t.Errorf("the server reads %x when it has used half", got)
	}
	testutil.Must(t, s.write(1, false, make([]byte, 1)))
	if got := readInbound(s.conn, nil, 1); !bytes.Equal(got, written(update(0, serverShare/2+1))) {
		t.Errorf("the server reads %x when it has used more", got)
	}
	s.conn.Release()
	s.conn.Release()
	if got, want := readInbound(s.conn, nil, 1), written(update(0, 1<<30+initialWindow-serverShare/2-1-serverShare)); !bytes.Equal(got, want) {
		t.Errorf("the server reads %x when it is to have all, want %x", got, want)
	}
	s.receive(update(0, 5))
	if got := s.conn.ledger; got.window != got.server {
		t.Errorf("not all is the server's: %+v", got)
	}
}

// What is inserted stands between two frames, behind the first, and not inside a
// header block.
func TestInboundInserts(t *testing.T) {
	inserted := written(ping)
	stream := fromClient(settings())
	legal := map[int]bool{len(stream): true}
	for _, next := range []struct {
		may   bool
		write frame
	}{
		{true, initialSize(initialWindow)},
		{true, update(0, 100)},
		{false, func(f *http2.Framer) error {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: make([]byte, 30)})
		}},
		{false, func(f *http2.Framer) error { return f.WriteContinuation(1, false, make([]byte, 5)) }},
		{false, func(f *http2.Framer) error { return f.WriteContinuation(1, false, nil) }},
		{true, func(f *http2.Framer) error { return f.WriteContinuation(1, true, make([]byte, 20)) }},
		{true, update(1, 100)},
		{true, data(1, false, make([]byte, 100))},
		{true, data(1, true, nil)},
		{true, headers(3, true)},
	} {
		stream = append(stream, written(next.write)...)
		legal[len(stream)] = next.may
	}
	for place := range len(stream) + 1 {
		c := New(new(testWire))
		got := readInbound(c, stream[:place], 1)
		c.Insert(ping)
		got = append(got, readInbound(c, stream[place:], 1)...)
		i := bytes.Index(got, inserted)
		if i < 0 {
			t.Fatalf("what is inserted at %d is not read", place)
		}
		if !legal[i] {
			t.Errorf("what is inserted at %d is read at %d", place, i)
		}
		if !bytes.Equal(slices.Delete(got, i, i+len(inserted)), stream) {
			t.Errorf("what is inserted at %d changes what is read", place)
		}
		if c.Begun() != (place >= len(http2.ClientPreface)+frameHeaderLen || len(stream) > place) {
			t.Errorf("at %d: begun %v", place, c.Begun())
		}
	}
}

// A Read that waits returns what is inserted, at once, and keeps its deadline.
func TestInboundWakes(t *testing.T) {
	client, below := net.Pipe()
	defer client.Close()
	conn := New(&testWire{conn: below})
	inserted := written(ping)
	start := fromClient(settings())
	go func() { _, _ = client.Write(start) }()
	read := func(want []byte) {
		t.Helper()
		got := make([]byte, len(want))
		testutil.Returns(t, "reading", func() {
			if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, want) {
				t.Errorf("read %x, %v; want %x", got, err, want)
			}
		})
	}
	read(start)
	for range 100 {
		go conn.Insert(ping)
		read(inserted)
	}
	go func() {
		for range 100 {
			conn.Insert(ping)
			_ = conn.SetReadDeadline(time.Now().Add(time.Hour))
		}
		_, _ = client.Write(inserted)
	}()
	for range 101 {
		read(inserted)
	}
	_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	conn.Insert(ping)
	read(inserted)
	testutil.Returns(t, "the deadline", func() {
		if n, err := conn.Read(make([]byte, 9)); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after the deadline Read returns %d, %v", n, err)
		}
	})
	_ = conn.SetReadDeadline(time.Time{})
	go conn.Insert(ping)
	read(inserted)
	client.Close()
	testutil.Returns(t, "the end", func() {
		if n, err := conn.Read(make([]byte, 9)); n > 0 || !errors.Is(err, io.EOF) {
			t.Errorf("after the end Read returns %d, %v", n, err)
		}
	})
}

// A rawFrame is a header and its payload.
type rawFrame struct {
	frameHeader
	bytes []byte
}

// split cuts what follows the preface into whole frames.
func split(b []byte) (frames []rawFrame) {
	if len(b) < len(http2.ClientPreface) {
		return nil
	}
	for b = b[len(http2.ClientPreface):]; len(b) >= frameHeaderLen; {
		h := parseFrameHeader(b)
		if len(b) < frameHeaderLen+h.length {
			break
		}
		frames = append(frames, rawFrame{h, b[:frameHeaderLen+h.length]})
		b = b[frameHeaderLen+h.length:]
	}
	return frames
}

// However the client's bytes are cut, the server reads the same; and of all frames but
// increments, and values of SETTINGS, what was sent.
func FuzzInbound(f *testing.F) {
	f.Add(fromClient(settings()), 30)
	f.Add(fromClient(settings(), reset(1), headers(5, true)), 3)
	f.Add(fromClient(initialSize(5), update(0, 100_000), update(1, maxWindow), initialSize(maxWindow), update(0, maxWindow)), 3)
	f.Add(fromClient(headers(7, true), update(7, 5), update(0, 5), update(1, 0)), 10)
	f.Fuzz(func(t *testing.T, stream []byte, n int) {
		n = max(n, 1)
		read := func(n int) []byte {
			c := New(new(testWire))
			s := &stubServer{conn: c, streams: map[uint32]int64{}}
			s.take(t, 1)
			s.open(3)
			return readInbound(c, stream, n)
		}
		got, whole := read(n), read(1<<20)
		if !bytes.Equal(got, whole) {
			t.Fatalf("in pieces of %d %x is read as %x, else as %x", n, stream, got, whole)
		}
		others := func(frames []rawFrame) []rawFrame {
			return slices.DeleteFunc(frames, func(f rawFrame) bool { return f.typ == http2.FrameWindowUpdate && f.length == 4 })
		}
		if sent, read := others(split(stream)), others(split(got)); !slices.EqualFunc(sent, read, func(a, b rawFrame) bool {
			return bytes.Equal(a.bytes, b.bytes) || isSettings(a.frameHeader) && a.frameHeader == b.frameHeader
		}) {
			t.Errorf("%x is read as %x", stream, got)
		}
	})
}
