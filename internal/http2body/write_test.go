package http2body

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// After a write that has failed nothing else is written.
func TestFailedWrite(t *testing.T) {
	broken := errors.New("broken")
	for _, who := range []string{"the server", "a stream"} {
		t.Run(who, func(t *testing.T) {
			s, w := newConn()
			s.receive(update(0, 1<<20))
			first, second := s.take(t, 1), s.take(t, 3)
			other := make(chan error, 1)
			w.writing = func(int) error {
				w.writing = nil
				go func() {
					_, err := second.Write(make([]byte, 100), true)
					other <- err
				}()
				eventually(s.conn, func() bool { return len(s.conn.queue) == 1 })
				return broken
			}
			var err error
			if who == "the server" {
				_, err = s.conn.Write(written(ping))
			} else {
				_, err = first.Write(make([]byte, 100), true)
			}
			if !errors.Is(err, broken) {
				t.Errorf("the write returns %v", err)
			}
			testutil.Returns(t, "the other stream", func() {
				if err := <-other; !errors.Is(err, broken) {
					t.Errorf("the other stream ends with %v", err)
				}
			})
			if n := len(w.taken()); n > 0 || !w.aborted {
				t.Errorf("%d bytes were written after that, cut off: %v", n, w.aborted)
			}
		})
	}
}

// Write cuts what it gets into whole frames, and keeps a short rest until it knows
// what follows.
func TestWrite(t *testing.T) {
	type part struct {
		n     int
		end   bool
		flush bool
	}
	for _, tt := range []struct {
		name  string
		parts []part
		want  []int // payloads
		held  int
	}{
		{"nothing", []part{{0, true, true}}, nil, 0},
		{"a little", []part{{100, false, false}}, nil, 100},
		{"a little and the end", []part{{100, true, false}}, []int{100}, 0},
		{"a little flushed", []part{{100, false, true}, {100, false, false}}, []int{100}, 100},
		{"pieces", []part{{4000, false, false}, {96, false, false}, {1, false, false}}, []int{4097}, 0},
		{"whole frames", []part{{2 * maxPayload, false, false}}, []int{maxPayload, maxPayload}, 0},
		{"a short rest", []part{{maxPayload + maxHeld, false, false}}, []int{maxPayload}, maxHeld},
		{"a long rest", []part{{maxPayload + maxHeld + 1, false, false}}, []int{maxPayload, maxHeld + 1}, 0},
		{"a rest and the end", []part{{maxPayload + 1, true, false}}, []int{maxPayload, 1}, 0},
		{"held and a frame", []part{{1000, false, false}, {maxPayload - 1000, false, false}}, []int{maxPayload}, 0},
		{"held and more", []part{{1000, false, false}, {maxPayload, false, false}}, []int{maxPayload}, 1000},
		{"five frames", []part{{5 * maxPayload, false, false}}, slices.Repeat([]int{maxPayload}, 5), 0},
		{"held and four frames", []part{{1, false, false}, {4 * maxPayload, true, false}}, append(slices.Repeat([]int{maxPayload}, 4), 1), 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, w := newConn()
			stream := s.take(t, 1)
			s.receive(update(0, 1<<20), update(1, 1<<20))
			body := testutil.Body(200_000)
			at := 0
			for _, p := range tt.parts {
				if n, err := stream.Write(body[at:at+p.n], p.end); n != p.n || err != nil {
					t.Fatalf("%d bytes, %v", n, err)
				}
				if at += p.n; p.flush {
					testutil.Must(t, stream.Flush())
				}
			}
			if len(stream.held) != tt.held {
				t.Errorf("%d bytes are held, want %d", len(stream.held), tt.held)
			}
			out := w.taken()
			var payloads []int
			for p := out; len(p) > 0; p = p[frameHeaderLen+parseFrameHeader(p).length:] {
				payloads = append(payloads, parseFrameHeader(p).length)
			}
			if got, _ := bodies(t, out); !slices.Equal(payloads, tt.want) || !bytes.Equal(append(got[1], stream.held...), body[:at]) {
				t.Errorf("payloads %v, want %v", payloads, tt.want)
			}
		})
	}
}

// What Write keeps goes before a file.
func TestWriteThenSendFile(t *testing.T) {
	s, w := newConn()
	stream := s.take(t, 1)
	s.receive(update(0, 1<<20))
	body := testutil.Body(50_000)
	_, err := stream.Write(body[:100], false)
	testutil.Must(t, err)
	_, err = stream.SendFile(filerange.Segment{File: testutil.OpenFile(t, body), Offset: 100, Len: 40_000})
	testutil.Must(t, err)
	_, err = stream.Write(body[40_100:], true)
	testutil.Must(t, err)
	if got, _ := bodies(t, w.taken()); !bytes.Equal(got[1], body) {
		t.Errorf("%d bytes, or others", len(got[1]))
	}
}
