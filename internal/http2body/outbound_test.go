package http2body

import (
	"bytes"
	"errors"
	mathrand "math/rand/v2"
	"reflect"
	"testing"

	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// However the server's frames are cut, they pass, but for the payload of streams that
// were taken over (1).
func TestOutbound(t *testing.T) {
	trailers := headers(1, true)
	for _, tt := range []struct {
		name  string
		wrote []frame
		want  []frame // nil for the same
	}{
		{name: "settings", wrote: []frame{settings(), (*http2.Framer).WriteSettingsAck, ping}},
		{name: "headers", wrote: []frame{headers(1, false), headers(3, true), headers(5, false)}},
		{name: "a header block in parts", wrote: []frame{
			func(f *http2.Framer) error {
				return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: make([]byte, 300)})
			},
			func(f *http2.Framer) error { return f.WriteContinuation(3, false, nil) },
			func(f *http2.Framer) error { return f.WriteContinuation(3, true, make([]byte, 20)) },
		}},
		{name: "data", wrote: []frame{data(3, false, []byte("three")), data(3, false, nil), data(3, true, []byte("end"))}},
		{name: "data of no stream that is known", wrote: []frame{data(5, false, []byte("five")), data(5, true, nil)}},
		{name: "padded data", wrote: []frame{
			func(f *http2.Framer) error { return f.WriteDataPadded(3, true, []byte("three"), make([]byte, 9)) },
		}},
		{name: "a filler", wrote: []frame{ping, data(1, false, make([]byte, 1000)), ping, data(1, false, make([]byte, 1)), data(3, false, []byte("three"))}, want: []frame{ping, ping, data(3, false, []byte("three"))}},
		{name: "nothing but fillers", wrote: []frame{data(1, false, make([]byte, 1000)), data(1, false, make([]byte, 16384))}, want: []frame{}},
		{name: "a padded filler", wrote: []frame{
			func(f *http2.Framer) error { return f.WriteDataPadded(1, false, []byte("three"), make([]byte, 9)) },
		}, want: []frame{}},
		{name: "a padded filler that ends", wrote: []frame{
			func(f *http2.Framer) error { return f.WriteDataPadded(1, true, []byte("three"), make([]byte, 9)) },
		}, want: []frame{data(1, true, nil)}},
		{name: "a filler that ends", wrote: []frame{data(1, true, make([]byte, 1000)), ping}, want: []frame{data(1, true, nil), ping}},
		{name: "an end", wrote: []frame{data(1, true, nil)}},
		{name: "empty data", wrote: []frame{data(1, false, nil)}},
		{name: "trailers", wrote: []frame{trailers}},
		{name: "a reset", wrote: []frame{func(f *http2.Framer) error { return f.WriteRSTStream(1, http2.ErrCodeInternal) }}},
		{name: "going away", wrote: []frame{func(f *http2.Framer) error { return f.WriteGoAway(9, http2.ErrCodeNo, []byte("bye")) }}},
		{name: "an unknown frame", wrote: []frame{raw(0xbe, 0xff, 1, []byte("unknown")), raw(0xbe, 0xff, 1, nil)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := tt.want
			if want == nil {
				want = tt.wrote
			}
			for _, n := range []int{1, 2, 8, 9, 10, 1000, 1 << 20} {
				s, w, _ := withStreams(t)
				s.writeAll(t, written(tt.wrote...), func() int { return n })
				if got := w.taken(); !bytes.Equal(got, written(want...)) {
					t.Errorf("in pieces of %d goes out\n%x, want\n%x", n, got, written(want...))
				}
			}
		})
	}
}

// What the server sends and what is swallowed is accounted for.
func TestOutboundAccounts(t *testing.T) {
	s, _, stream := withStreams(t)
	c := s.conn
	other := c.streams[3]
	testutil.Must(t, s.write(3, false, make([]byte, 1000)))
	testutil.Must(t, s.write(5, false, nil))
	_, err := c.Write(written(data(5, true, make([]byte, 100))))
	testutil.Must(t, err)
	_, err = c.Write(written(data(1, false, make([]byte, 10))))
	testutil.Must(t, err)
	if l := c.ledger; l.window != initialWindow-1100 || l.server != initialWindow-1110 || l.reserved != 10 {
		t.Errorf("%+v", l)
	}
	if a := stream.account; a.granted != 0 || a.server != -10 || a.reserve != 10 || stream.passed != 0 {
		t.Errorf("%+v", a)
	}
	if a := other.account; a.granted != -1000 || a.server != -1000 || a.reserve != 0 || other.passed != 1000 {
		t.Errorf("%+v, %d passed", a, other.passed)
	}
	_, err = c.Write(written(data(1, true, nil)))
	testutil.Must(t, err)
	if c.reserved != 0 || c.taken != 0 || c.streams[1] != nil {
		t.Errorf("after the end %+v, stream %v", c.ledger, c.streams[1])
	}
}

// Frames of ours stand between the server's, and not inside a header block.
func TestOutboundBetween(t *testing.T) {
	var stream []byte
	legal := map[int]bool{0: true}
	for _, next := range []struct {
		may   bool
		write frame
	}{
		{true, settings()},
		{true, initialSize(1)},
		{false, func(f *http2.Framer) error {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: make([]byte, 30)})
		}},
		{false, func(f *http2.Framer) error { return f.WriteContinuation(3, false, make([]byte, 5)) }},
		{false, func(f *http2.Framer) error { return f.WriteContinuation(3, false, nil) }},
		{true, func(f *http2.Framer) error { return f.WriteContinuation(3, true, make([]byte, 20)) }},
		{false, func(f *http2.Framer) error {
			return f.WritePushPromise(http2.PushPromiseParam{StreamID: 3, PromiseID: 2, BlockFragment: make([]byte, 30)})
		}},
		{true, func(f *http2.Framer) error { return f.WriteContinuation(3, true, make([]byte, 20)) }},
		{true, data(3, false, make([]byte, 100))},
		{true, headers(3, true)},
	} {
		stream = append(stream, written(next.write)...)
		legal[len(stream)] = next.may
	}
	body := testutil.Body(1000)
	file := testutil.OpenFile(t, body)
	ours := written(data(1, false, body))
	for place := range len(stream) + 1 {
		s, w, sending := withStreams(t)
		s.receive(update(0, 1<<20))
		s.writeAll(t, stream[:place], func() int { return 1 << 20 })
		sent, err := sending.SendFile(filerange.Segment{File: file, Ahead: int64(len(body))}) // without waiting
		testutil.Must(t, err)
		if (sent.Total() > 0) != legal[place] {
			t.Errorf("at %d %v bytes are sent", place, sent)
		}
		finished := make(chan error, 1)
		if sent.Total() == 0 {
			go func() {
				_, err := sending.Write(body, true)
				finished <- err
			}()
			testutil.Returns(t, "waiting", func() { eventually(s.conn, func() bool { return len(s.conn.queue) == 1 }) })
		} else {
			finished <- nil
		}
		s.writeAll(t, stream[place:], func() int { return 1 })
		testutil.Returns(t, "sending", func() { testutil.Must(t, <-finished) })
		got := w.taken()
		i := bytes.Index(got, ours)
		if i < 0 || !legal[i] || i < place {
			t.Fatalf("what is sent at %d stands at %d", place, i)
		}
		if rest := append(bytes.Clone(got[:i]), got[i+len(ours):]...); !bytes.Equal(rest, stream) {
			t.Errorf("what is sent at %d changes what the server sends", place)
		}
	}
}

// After GOAWAY with an error nothing of ours is sent, after one without everything.
func TestOutboundGoAway(t *testing.T) {
	for _, tt := range []struct {
		name  string
		write frame
		err   error
	}{
		{"no error", func(f *http2.Framer) error { return f.WriteGoAway(maxWindow, http2.ErrCodeNo, nil) }, nil},
		{"no error and more", func(f *http2.Framer) error { return f.WriteGoAway(1, http2.ErrCodeNo, []byte("0123456789")) }, nil},
		{"an error", func(f *http2.Framer) error { return f.WriteGoAway(0, http2.ErrCodeFlowControl, nil) }, errGoAway},
		{"an error and more", func(f *http2.Framer) error { return f.WriteGoAway(1, http2.ErrCodeProtocol, []byte("0123456789")) }, errGoAway},
		{"a large number", func(f *http2.Framer) error { return f.WriteGoAway(1, 0x01000000, nil) }, errGoAway},
		{"too short", raw(http2.FrameGoAway, 0, 0, []byte("0123456")), nil},
		{"empty", raw(http2.FrameGoAway, 0, 0, nil), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, n := range []int{1, 3, 9, 13, 16, 17, 100} {
				s, w, stream := withStreams(t)
				s.writeAll(t, written(ping, tt.write), func() int { return n })
				testutil.Returns(t, "sending", func() {
					if _, err := stream.Write([]byte("body"), true); !errors.Is(err, tt.err) {
						t.Errorf("in pieces of %d: %v, want %v", n, err, tt.err)
					}
				})
				s.writeAll(t, written(data(3, true, []byte("three"))), func() int { return n })
				want := written(ping, tt.write, data(1, false, []byte("body")), data(3, true, []byte("three")))
				if tt.err != nil {
					want = written(ping, tt.write, data(3, true, []byte("three")))
				}
				if got := w.taken(); !bytes.Equal(got, want) {
					t.Errorf("in pieces of %d goes out\n%x, want\n%x", n, got, want)
				}
			}
		})
	}
}

// Nothing is sent on a stream that has ended or was reset.
func TestOutboundEnds(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(s *stubServer) error
		err  error
	}{
		{"with data", func(s *stubServer) error { return s.write(1, true, nil) }, errEnded},
		{"with a filler", func(s *stubServer) error { return s.write(1, true, []byte("0")) }, errEnded},
		{"with trailers", func(s *stubServer) error { _, err := s.conn.Write(written(headers(1, true))); return err }, errEnded},
		{"reset by the server", func(s *stubServer) error { _, err := s.conn.Write(written(reset(1))); return err }, errEnded},
		{"reset by the client", func(s *stubServer) error { s.receive(reset(1)); return nil }, errReset},
		{"another", func(s *stubServer) error { return s.write(3, true, []byte("three")) }, nil},
		{"header only", func(s *stubServer) error { _, err := s.conn.Write(written(headers(1, false))); return err }, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, w, stream := withStreams(t)
			file := testutil.OpenFile(t, []byte("body"))
			testutil.Must(t, tt.end(s))
			w.taken()
			sent, err := stream.SendFile(filerange.Segment{File: file, Len: 4})
			if !errors.Is(err, tt.err) || (sent.Total() == 4) != (tt.err == nil) || (len(w.taken()) > 0) != (tt.err == nil) {
				t.Errorf("%v bytes sent, %v; want %v", sent, err, tt.err)
			}
			if n, err := stream.Write([]byte("body"), true); !errors.Is(err, tt.err) || (n == 4) != (tt.err == nil) {
				t.Errorf("%d bytes written, %v; want %v", n, err, tt.err)
			}
			stream.Take()
			if want := btoi(tt.err == nil); s.conn.taken != want {
				t.Errorf("%d streams are taken over, want %d", s.conn.taken, want)
			}
		})
	}
}

// A stream that ends while frames of it are being sent has its turn, and no other.
func TestOutboundEndsInTurn(t *testing.T) {
	s, w, stream := withStreams(t)
	s.receive(update(0, 1<<20))
	w.writing = func(frames int) error {
		if frames > 0 {
			w.writing = nil
			s.receive(reset(1))
		}
		return nil
	}
	file := testutil.OpenFile(t, make([]byte, 200_000))
	s.receive(update(1, 200_000))
	sent, err := stream.SendFile(filerange.Segment{File: file, Len: 200_000})
	if sent.Total() != turnFrames*FilePayload || !errors.Is(err, errReset) {
		t.Errorf("%v bytes sent, %v", sent, err)
	}
	eventually(s.conn, func() bool { return !s.conn.busy })
	if l := s.conn.ledger; l.window != initialWindow+1<<20-turnFrames*FilePayload || l.reserved != 0 || l.taken != 0 {
		t.Errorf("%+v", l)
	}
}

// However the server's bytes are cut, the same goes out.
func FuzzOutbound(f *testing.F) {
	f.Add(written(settings(), data(1, false, []byte("filler")), data(3, false, []byte("real"))), uint64(3))
	f.Add([]byte("\x00\x00\x01\x00\x00\x00\x00\x00\x03x"), uint64(9))
	f.Add(append([]byte("\x00\x50\x00\x00\x01\x00\x00\x00\x01"), make([]byte, 0x5000)...), uint64(20_000))
	f.Add(written(func(f *http2.Framer) error { return f.WriteGoAway(0, 1, []byte("why")) }, headers(1, true)), uint64(1))
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64) {
		random := mathrand.New(mathrand.NewPCG(seed, 1))
		write := func(piece func() int) ([]byte, *stubServer) {
			s, w, _ := withStreams(t)
			s.writeAll(t, stream, piece)
			if between := s.conn.out.between(); between != s.conn.between && len(stream) > 0 {
				t.Errorf("between frames: %v, noted %v", between, s.conn.between)
			}
			return append(w.taken(), s.conn.out.partial...), s
		}
		whole, a := write(func() int { return len(stream) })
		parts, b := write(func() int { return 1 + random.IntN(1+random.IntN(100)) })
		if !bytes.Equal(whole, parts) {
			t.Errorf("%x is written as %x, and in pieces as %x", stream, whole, parts)
		}
		if !reflect.DeepEqual(a.conn.ledger, b.conn.ledger) || (a.conn.stopped == nil) != (b.conn.stopped == nil) || a.conn.between != b.conn.between {
			t.Errorf("%x: %+v, in pieces %+v", stream, a.conn.ledger, b.conn.ledger)
		}
	})
}
