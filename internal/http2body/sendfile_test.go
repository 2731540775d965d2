package http2body

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A file that has become shorter is not begun, and what it was to use others can.
func TestShortFile(t *testing.T) {
	s, w := newConn()
	s.receive(update(0, 100_000))
	body := testutil.Body(100_000)
	file := testutil.OpenFile(t, body)
	testutil.Must(t, os.Truncate(file.Name(), 90_000))
	stream, other := s.take(t, 1), s.take(t, 3)
	s.receive(update(1, 100_000), update(3, 100_000))
	stream.waited = true // so that it looks
	sent, err := stream.SendFile(filerange.Segment{File: file, Offset: 80_000, Len: 20_000})
	if sent.Total() != 0 || !errors.Is(err, ErrShort) {
		t.Errorf("%v bytes sent, %v", sent, err)
	}
	testutil.Returns(t, "the other stream", func() {
		if n, err := other.Write(body, true); n != len(body) || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
	})
	if got, _ := bodies(t, w.taken()); len(got[1]) > 0 || !bytes.Equal(got[3], body) {
		t.Errorf("%d bytes of the file, %d of the other stream", len(got[1]), len(got[3]))
	}
}

// What is sent ahead needs no waiting, and no filler.
func TestAhead(t *testing.T) {
	body := testutil.Body(500_000)
	file := testutil.OpenFile(t, body)
	for _, tt := range []struct {
		name   string
		window uint32
		n      int64
		before func(t *testing.T, s *stubServer, w *testWire)
		sent   int64
	}{
		{"all", 1 << 20, 100_000, nil, 200_000},
		{"nothing but ahead", 1 << 20, 0, nil, 100_000},
		{"no window of the connection", 0, 0, nil, 0},
		{"little window of the connection", 40_000, 10_000, nil, 40_000},
		{"no window of the stream", 1 << 20, 0, func(t *testing.T, s *stubServer, w *testWire) { s.receive(initialSize(0)) }, 0},
		{"the server writes", 1 << 20, 0, func(t *testing.T, s *stubServer, w *testWire) {
			_, err := s.conn.Write(written(ping)[:5])
			testutil.Must(t, err)
		}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, w := newConn()
			stream := s.take(t, 1)
			if tt.window > 0 {
				s.receive(update(0, tt.window))
			}
			// What the server has it keeps, since nothing of it is needed.
			s.receive(initialSize(1 << 20))
			testutil.Must(t, s.acknowledge())
			if tt.before != nil {
				tt.before(t, s, w)
			}
			testutil.Returns(t, "sending", func() {
				sent, err := stream.SendFile(filerange.Segment{File: file, Offset: 1000, Len: tt.n, Ahead: 100_000})
				if (sent != filerange.Sent{Sendfile: tt.sent}) || err != nil {
					t.Errorf("%+v sent, %v; want %d bytes", sent, err, tt.sent)
				}
			})
			if s.filled[1] > 0 {
				t.Errorf("%d bytes of filler", s.filled[1])
			}
			if tt.sent > 0 {
				if got, _ := bodies(t, w.taken()); !bytes.Equal(got[1], body[1000:1000+tt.sent]) {
					t.Error("other bytes were sent")
				}
			}
		})
	}
}

// While a stream waits, and when it has sent, TCP holds nothing back.
func TestCork(t *testing.T) {
	s, w := newConn()
	stream := s.take(t, 1)
	s.receive(update(0, 1<<20))
	w.writing = func(frames int) error {
		if frames > 0 && !w.isCorked() {
			t.Error("not corked while frames are sent")
		}
		return nil
	}
	sent := make(chan error, 1)
	go func() {
		_, err := stream.SendFile(filerange.Segment{File: testutil.OpenFile(t, make([]byte, 100_000)), Len: 100_000})
		sent <- err
	}()
	eventually(s.conn, func() bool { return s.conn.streamWindow(&stream.account) == 0 && !s.conn.busy })
	testutil.Returns(t, "waiting", func() { eventually(s.conn, func() bool { return !w.isCorked() }) })
	s.receive(update(1, 1<<20))
	testutil.Returns(t, "sending", func() { testutil.Must(t, <-sent) })
	if w.isCorked() {
		t.Error("corked in the end")
	}
}

// What was sent is told with an error too.
func TestSendFileFails(t *testing.T) {
	s, w, stream := withStreams(t)
	s.receive(update(0, 1<<20), update(1, 1<<20))
	broken := errors.New("broken")
	turns := 0
	w.writing = func(frames int) error {
		if frames == 0 {
			return nil
		}
		if turns++; turns == 3 {
			return broken
		}
		return nil
	}
	part := filerange.Segment{File: testutil.OpenFile(t, make([]byte, 400_000)), Len: 400_000}
	sent, err := stream.SendFile(part)
	if want := int64(3 * turnFrames * FilePayload); sent.Sendfile != want || !errors.Is(err, broken) {
		t.Errorf("%+v sent, %v; want %d bytes, of which the last are those that the wire told with the error", sent, err, want)
	}
}

// A stream may carry more bytes than numbers of 32 bits can count. The server, whose own
// count does not go down, is told of no more window than there may be.
func TestHugeFile(t *testing.T) {
	const size, step = 5<<30 + 321, 1 << 30
	file := testutil.OpenFile(t, nil)
	testutil.Must(t, os.Truncate(file.Name(), size))
	s, w := newConn()
	stream := s.take(t, 1)
	began, told := stream.granted, s.streams[1]
	var next int64
	w.sending = func(part filerange.Segment) {
		if part.Offset != next {
			t.Fatalf("offset %d, want %d", part.Offset, next)
		}
		next += part.Len
	}
	var granted int64
	for next < size {
		s.receive(update(0, step), update(1, step))
		granted += step
		part := filerange.Segment{File: file, Offset: next, Len: min(step, size-next)}
		testutil.Returns(t, "sending", func() {
			if sent, err := stream.SendFile(part); sent.Sendfile != part.Len || err != nil {
				t.Fatalf("%+v sent, %v; want %d bytes", sent, err, part.Len)
			}
		})
		if got, want := stream.granted, began+granted-next; got != want {
			t.Errorf("after %d bytes the stream's window is %d more than the initial one, want %d", next, got, want)
		}
		if got := s.conn.window; got != s.window+s.conn.reserved+s.conn.pool() || s.window > serverShare {
			t.Errorf("after %d bytes the connection's window is %d; the server has %d", next, got, s.window)
		}
	}
	if next != size || s.streams[1] > told {
		t.Errorf("%d bytes sent; the server has %d bytes of the stream's window, and had %d", next, s.streams[1], told)
	}
}
