package http2body

import (
	"bytes"
	"errors"

	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
)

// Two files take turns of four frames.
func TestTurns(t *testing.T) {
	server, w := newConn()
	c := server.conn
	const frames = 40
	body := randomBytes(frames*FilePayload, 1)
	file := openFile(t, body)
	server.receive(update(0, 1<<30), update(0, 1<<30))
	streams := []*Stream{server.take(t, 1), server.take(t, 3)}
	server.receive(update(1, 1<<30), update(3, 1<<30))
	var finished atomic.Bool
	w.writing = func(int) error { // the other one is to wait before this turn is over
		eventually(c, func() bool { return len(c.queue) == 1 || finished.Load() })
		return nil
	}
	done(t, "sending", func() {
		var senders sync.WaitGroup
		for _, s := range streams {
			senders.Go(func() {
				defer finished.Store(true)
				if n, err := s.SendFile(filerange.Segment{File: file, Len: int64(len(body))}); n.Total() != int64(len(body)) || err != nil {
					t.Errorf("%d bytes, %v", n, err)
				}
			})
		}
		senders.Wait()
	})
	got, order := bodies(t, w.taken())
	if !bytes.Equal(got[1], body) || !bytes.Equal(got[3], body) {
		t.Error("other bytes were sent")
	}
	for i, id := range order {
		if want := order[0] ^ uint32(i/turnFrames%2)*2; id != want {
			t.Fatalf("frame %d is of stream %d: %v", i, id, order)
		}
	}
}

// What waits ends at once, whatever it waits for.
func TestEndsWhileWaiting(t *testing.T) {
	broken := errors.New("broken")
	ends := []struct {
		name string
		end  func(s *stubServer)
		err  error
	}{
		{"the client resets", func(s *stubServer) { s.receive(reset(1)) }, errReset},
		{"the connection is closed", func(s *stubServer) { s.conn.Close(nil) }, net.ErrClosed},
		{"the connection fails", func(s *stubServer) { s.conn.Close(broken) }, broken},
		{"the server gives up", func(s *stubServer) { s.conn.stop(errGoAway) }, errGoAway},
	}
	body := randomBytes(200_000, 1)
	for _, wait := range []struct {
		name  string
		begin func(t *testing.T, s *stubServer, w *testWire) (send func(*Stream) error, waits func() bool)
	}{
		{"for the stream's window", func(t *testing.T, s *stubServer, w *testWire) (func(*Stream) error, func() bool) {
			s.receive(update(0, 1<<20), initialSize(0))
			return func(stream *Stream) error {
				_, err := stream.Write(body, true)
				return err
			}, func() bool { return s.conn.streams[1].need > 0 }
		}},
		{"for the connection's window", func(t *testing.T, s *stubServer, w *testWire) (func(*Stream) error, func() bool) {
			must(t, s.write(5, false, body[:initialWindow]))
			file := openFile(t, body)
			return func(stream *Stream) error {
				_, err := stream.SendFile(filerange.Segment{File: file, Len: 200_000})
				return err
			}, func() bool { return len(s.conn.queue) == 1 }
		}},
		{"for its turn", func(t *testing.T, s *stubServer, w *testWire) (func(*Stream) error, func() bool) {
			s.receive(update(0, 1<<20))
			other := s.take(t, 3)
			blocked, release := make(chan struct{}), make(chan struct{})
			w.writing = func(int) error {
				w.writing = nil
				close(blocked)
				<-release
				return nil
			}
			sent := make(chan struct{})
			go func() {
				_, _ = other.Write(body[:100], true)
				close(sent)
			}()
			<-blocked
			t.Cleanup(func() { close(release); <-sent })
			return func(stream *Stream) error {
				_, err := stream.Write(body, true)
				return err
			}, func() bool { return len(s.conn.queue) == 1 }
		}},
		{"for the end of a frame of the server", func(t *testing.T, s *stubServer, w *testWire) (func(*Stream) error, func() bool) {
			s.receive(update(0, 1<<20))
			_, err := s.conn.Write(written(data(5, false, body[:100]))[:50])
			must(t, err)
			return func(stream *Stream) error {
				_, err := stream.Write(body, true)
				return err
			}, func() bool { return len(s.conn.queue) == 1 }
		}},
		{"for a filler", func(t *testing.T, s *stubServer, w *testWire) (func(*Stream) error, func() bool) {
			s.conn.streams[1].writer = lazyWriter{stubWriter{server: s, id: 1}}
			return func(stream *Stream) error {
				_, err := stream.Write(body, true)
				return err
			}, func() bool { return s.conn.filler > 0 }
		}},
		{"for what the server has begun", func(t *testing.T, s *stubServer, w *testWire) (func(*Stream) error, func() bool) {
			return func(stream *Stream) error { return stream.AwaitServer(stubWriter{server: s, id: 1}, 100) },
				func() bool { return s.conn.awaiting == 1 }
		}},
	} {
		for _, tt := range ends {
			t.Run(wait.name+", "+tt.name, func(t *testing.T) {
				s, w := newConn()
				s.open(5)
				stream := s.take(t, 1)
				send, waits := wait.begin(t, s, w)
				failed := make(chan error, 1)
				go func() { failed <- send(stream) }()
				done(t, "waiting", func() { eventually(s.conn, waits) })
				w.taken()
				tt.end(s)
				done(t, "sending", func() {
					if err := <-failed; !errors.Is(err, tt.err) {
						t.Errorf("ends with %v, want %v", err, tt.err)
					}
				})
				if n := len(w.taken()); n > 0 {
					t.Errorf("%d bytes were sent", n)
				}
			})
		}
	}
}

// A lazyWriter is that of a server that never sends what it was given.
type lazyWriter struct{ stubWriter }

func (lazyWriter) Write(p []byte) (int, error) { return len(p), nil }

// With a client that does not read, closing the connection ends also the server's
// write that waits for its turn.
func TestCloseEndsServersWrite(t *testing.T) {
	s, w := newConn()
	s.receive(update(0, 1<<20))
	stream := s.take(t, 1)
	blocked, release := make(chan struct{}), make(chan struct{})
	w.writing = func(int) error {
		close(blocked)
		<-release
		return net.ErrClosed
	}
	var ended sync.WaitGroup
	ended.Go(func() {
		if _, err := stream.Write(make([]byte, 10_000), true); !errors.Is(err, net.ErrClosed) {
			t.Errorf("the stream's write returns %v", err)
		}
	})
	<-blocked
	waited := make(chan error)
	go func() {
		_, err := s.conn.Write(written(ping))
		waited <- err
	}()
	done(t, "waiting", func() { eventually(s.conn, func() bool { return len(s.conn.servers) == 1 }) })
	s.conn.Close(nil)
	done(t, "the server's write", func() {
		if err := <-waited; !errors.Is(err, net.ErrClosed) {
			t.Errorf("the server's write returns %v", err)
		}
	})
	if _, err := s.conn.Write(written(ping)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after the end the server's write returns %v", err)
	}
	close(release)
	ended.Wait()
	if w.aborted {
		t.Error("the connection is cut off, though it was closed")
	}
}

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
			done(t, "the other stream", func() {
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

// A file that has become shorter is not begun, and what it was to use others can.
func TestShortFile(t *testing.T) {
	s, w := newConn()
	s.receive(update(0, 100_000))
	body := randomBytes(100_000, 1)
	file := openFile(t, body)
	must(t, os.Truncate(file.Name(), 90_000))
	stream, other := s.take(t, 1), s.take(t, 3)
	s.receive(update(1, 100_000), update(3, 100_000))
	stream.waited = true // so that it looks
	sent, err := stream.SendFile(filerange.Segment{File: file, Offset: 80_000, Len: 20_000})
	if sent.Total() != 0 || !errors.Is(err, ErrShort) {
		t.Errorf("%v bytes sent, %v", sent, err)
	}
	done(t, "the other stream", func() {
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
	body := randomBytes(500_000, 1)
	file := openFile(t, body)
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
			must(t, err)
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
			must(t, s.acknowledge())
			if tt.before != nil {
				tt.before(t, s, w)
			}
			done(t, "sending", func() {
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

// A body of all the window that every connection begins with goes out without anything
// that the client grants, and the server is never asked to write more than the body.
func TestFiller(t *testing.T) {
	body := randomBytes(initialWindow, 1)
	for _, tt := range []struct {
		name string
		n    int // of the body
		// interfere is called before the first filler; it returns what is to come of
		// stream 5.
		interfere func(t *testing.T, s *stubServer, w *testWire) int
	}{
		{"alone", initialWindow, func(*testing.T, *stubServer, *testWire) int { return 0 }},
		{"a little", 100, func(*testing.T, *stubServer, *testWire) int { return 0 }},
		{"beside the server", 35_535, func(t *testing.T, s *stubServer, _ *testWire) int {
			must(t, s.write(5, false, body[:30_000]))
			return 30_000
		}},
		{"the server has little left for it", 50_000, func(t *testing.T, s *stubServer, _ *testWire) int {
			must(t, s.write(5, false, body[:60_000]))
			s.receive(update(0, 44_465))
			return 60_000
		}},
		{"cut off by the server", 60_000, func(t *testing.T, s *stubServer, w *testWire) int {
			w.writing = func(frames int) error {
				if frames > 0 {
					w.writing = func(int) error {
						w.writing = nil
						s.receive(update(0, 1)) // the server gets its share
						return nil
					}
					go func() { _, _ = s.conn.Write(written(ping)) }()
					eventually(s.conn, func() bool { return len(s.conn.servers) == 1 })
				}
				return nil
			}
			return 0
		}},
		{"while the client lowers the windows", 60_000, func(t *testing.T, s *stubServer, w *testWire) int {
			s.receive(initialSize(10_000))
			s.streams[1] += 10_000 - initialWindow
			s.receive(update(1, 50_000))
			return 0
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, w := newConn()
			s.open(5)
			stream := s.take(t, 1)
			server := 0
			s.hindered = func() { server = tt.interfere(t, s, w) }
			file := openFile(t, body[:tt.n])
			done(t, "sending", func() {
				if n, err := stream.SendFile(filerange.Segment{File: file, Len: int64(tt.n)}); n.Total() != int64(tt.n) || err != nil {
					t.Errorf("%d bytes, %v", n, err)
				}
			})
			got, _ := bodies(t, w.taken())
			if !bytes.Equal(got[1], body[:tt.n]) || !bytes.Equal(got[5], body[:server]) {
				t.Errorf("%d bytes of ours, %d of the server's", len(got[1]), len(got[5]))
			}
			if s.filled[1] > tt.n {
				t.Errorf("%d bytes of filler for a body of %d", s.filled[1], tt.n)
			}
			c := s.conn
			eventually(c, func() bool { return !c.busy }) // the server may still be writing
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.reserved != 0 || c.filling != nil || c.filler != 0 || c.busy {
				t.Errorf("left: %+v, busy %v", c.ledger, c.busy)
			}
		})
	}
}

// A stream that was given window of its own does not wait behind one that has none.
func TestReserveGoesFirst(t *testing.T) {
	s, w := newConn()
	s.open(5)
	body := randomBytes(1000, 1)
	poor, rich := s.take(t, 1), s.take(t, 3)
	must(t, s.write(3, false, make([]byte, 100))) // swallowed
	must(t, s.write(5, false, make([]byte, initialWindow-100)))
	failed := make(chan error, 1)
	go func() {
		_, err := poor.Write(body, true)
		failed <- err
	}()
	done(t, "waiting", func() { eventually(s.conn, func() bool { return len(s.conn.queue) == 1 }) })
	done(t, "sending", func() {
		if n, err := rich.Write(body[:100], true); n != 100 || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
	})
	s.receive(update(0, 2000))
	done(t, "sending", func() { must(t, <-failed) })
	if got, _ := bodies(t, w.taken()); !bytes.Equal(got[1], body) || !bytes.Equal(got[3], body[:100]) {
		t.Errorf("%d and %d bytes were sent", len(got[1]), len(got[3]))
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
			body := randomBytes(200_000, 1)
			at := 0
			for _, p := range tt.parts {
				if n, err := stream.Write(body[at:at+p.n], p.end); n != p.n || err != nil {
					t.Fatalf("%d bytes, %v", n, err)
				}
				if at += p.n; p.flush {
					must(t, stream.Flush())
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
	body := randomBytes(50_000, 1)
	_, err := stream.Write(body[:100], false)
	must(t, err)
	_, err = stream.SendFile(filerange.Segment{File: openFile(t, body), Offset: 100, Len: 40_000})
	must(t, err)
	_, err = stream.Write(body[40_100:], true)
	must(t, err)
	if got, _ := bodies(t, w.taken()); !bytes.Equal(got[1], body) {
		t.Errorf("%d bytes, or others", len(got[1]))
	}
}

// A stream is given once, while it is open; more of them than the server allows are
// not remembered.
func TestStream(t *testing.T) {
	s, _ := newConn()
	c := s.conn
	s.receive(headers(1, true), headers(3, true), reset(3), headers(2, true), headers(1, true))
	for id, want := range map[uint32]bool{1: true, 2: false, 3: false, 5: false} {
		if stream, err := c.Stream(id); (stream != nil) != want || (err == nil) != want {
			t.Errorf("stream %d: %v", id, err)
		}
		if _, err := c.Stream(id); err == nil || errors.Is(err, ErrUnknown) != (id != 3) {
			t.Errorf("stream %d is given again: %v", id, err)
		}
	}
	for id := uint32(5); id < 10_000; id += 2 {
		s.receive(headers(id, true))
	}
	if len(c.streams) != maxStreams {
		t.Errorf("%d streams are known", len(c.streams))
	}
}

// The stream of another response is found out.
func TestAwaitServerMismatch(t *testing.T) {
	s, _ := newConn()
	s.open(1)
	stream, err := s.conn.Stream(1)
	must(t, err)
	must(t, s.write(1, false, make([]byte, 101)))
	if err := stream.AwaitServer(stubWriter{server: s, id: 1}, 100); !errors.Is(err, ErrMismatch) {
		t.Errorf("it ends with %v", err)
	}
	must(t, stream.AwaitServer(stubWriter{server: s, id: 1}, 101))
	if err := stream.AwaitServer(struct{ http.ResponseWriter }{}, 101); err == nil {
		t.Error("it ends without a flush")
	}
}

// What a stream has in reserve others can use when the client lowers its window.
func TestReserveOfClosedStream(t *testing.T) {
	s, w := newConn()
	s.open(5)
	body := randomBytes(100, 1)
	poor, rich := s.take(t, 1), s.take(t, 3)
	must(t, s.write(3, false, make([]byte, 100))) // swallowed
	must(t, s.write(5, false, make([]byte, initialWindow-100)))
	s.receive(initialSize(0), update(1, 100))
	done(t, "sending", func() {
		if n, err := poor.Write(body, true); n != 100 || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
	})
	// It is not to be asked for filler again, of which there was as much as there will
	// be of the body.
	s.receive(update(0, 200), update(3, 1000))
	done(t, "sending", func() {
		if n, err := rich.Write(body, true); n != 100 || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
	})
	if s.filled[3] > 0 {
		t.Errorf("%d bytes of filler", s.filled[3])
	}
	if got, _ := bodies(t, w.taken()); !bytes.Equal(got[1], body) || !bytes.Equal(got[3], body) {
		t.Errorf("%d and %d bytes were sent", len(got[1]), len(got[3]))
	}
}

// What others have used of a filler the stream gets first when the client grants more.
func TestDebtIsPaidFirst(t *testing.T) {
	s, _ := newConn()
	stream := s.take(t, 1)
	c := s.conn
	must(t, s.write(1, false, make([]byte, 1000))) // swallowed
	c.owe(&stream.account, 1000)
	c.serverSent(nil, c.window) // the rest is used
	c.server = 0
	s.receive(update(0, 900))
	if got := readInbound(c, nil, 1); len(got) > 0 || stream.reserve != 900 || stream.debt != 100 || c.server != 0 {
		t.Errorf("the server reads %x, %+v", got, stream.account)
	}
}

// A stream that waits gets at once what another has in reserve, when that one's window
// is lowered.
func TestReserveGoesOver(t *testing.T) {
	s, w := newConn()
	s.open(5)
	body := randomBytes(100, 1)
	poor, _ := s.take(t, 1), s.take(t, 3)
	must(t, s.write(3, false, make([]byte, 100))) // swallowed
	must(t, s.write(5, false, make([]byte, initialWindow-100)))
	s.receive(update(1, 1000))
	failed := make(chan error, 1)
	go func() {
		_, err := poor.Write(body, true)
		failed <- err
	}()
	done(t, "waiting", func() { eventually(s.conn, func() bool { return len(s.conn.queue) == 1 }) })
	s.receive(initialSize(0))
	done(t, "sending", func() { must(t, <-failed) })
	if got, _ := bodies(t, w.taken()); !bytes.Equal(got[1], body) {
		t.Errorf("%d bytes were sent", len(got[1]))
	}
}

// A failingWriter does not write until it may, and then fails.
type failingWriter struct {
	stubWriter
	err error
	may <-chan struct{}
}

func (w failingWriter) Write([]byte) (int, error) {
	<-w.may
	return 0, w.err
}

// When a filler fails, or its stream is reset while the server has it, the next stream
// can have one.
func TestFillerFails(t *testing.T) {
	broken := errors.New("broken")
	for _, tt := range []struct {
		name  string
		reset bool
		err   error
	}{
		{"refused", false, broken},
		{"reset", true, errReset},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, w := newConn()
			first, second := s.take(t, 1), s.take(t, 3)
			may := make(chan struct{})
			first.writer = failingWriter{stubWriter{server: s, id: 1}, broken, may}
			failed := make(chan error, 1)
			go func() {
				_, err := first.Write(make([]byte, 1000), true)
				failed <- err
			}()
			done(t, "waiting", func() { eventually(s.conn, func() bool { return s.conn.filler > 0 }) })
			end := func() {
				close(may)
				done(t, "the filler", func() {
					if err := <-failed; !errors.Is(err, tt.err) {
						t.Errorf("ends with %v, want %v", err, tt.err)
					}
				})
			}
			if tt.reset {
				s.receive(reset(1))
				defer end()
			} else {
				end()
			}
			done(t, "sending", func() {
				if n, err := second.Write(make([]byte, 60_000), true); n != 60_000 || err != nil {
					t.Errorf("%d bytes, %v", n, err)
				}
			})
			if got, _ := bodies(t, w.taken()); len(got[1]) > 0 || len(got[3]) != 60_000 {
				t.Errorf("%d and %d bytes were sent", len(got[1]), len(got[3]))
			}
		})
	}
}

// The server is told of more as soon as it has used half, also if a stream goes next.
func TestServersShareFirst(t *testing.T) {
	s, w := newConn()
	s.open(5)
	s.receive(update(0, 1<<30), update(5, 1<<30), initialSize(1<<30))
	s.streams[5] += 1 << 30
	stream := s.take(t, 1)
	must(t, s.write(5, false, make([]byte, serverShare/2)))
	var got []byte
	failed := make(chan error, 1)
	w.writing = func(frames int) error {
		if frames > 0 {
			w.writing = nil
			got = readInbound(s.conn, nil, 1)
			return nil
		}
		go func() {
			_, err := stream.Write(make([]byte, 100), true)
			failed <- err
		}()
		eventually(s.conn, func() bool { return len(s.conn.queue) == 1 })
		return nil
	}
	must(t, s.write(5, false, make([]byte, 1)))
	done(t, "sending", func() { must(t, <-failed) })
	if want := written(update(0, serverShare/2+1)); !bytes.Equal(got, want) {
		t.Errorf("the server reads %x, want %x", got, want)
	}
}

// AwaitServer waits until the server's write is over.
func TestAwaitServerWaits(t *testing.T) {
	s, w := newConn()
	s.open(1)
	stream, err := s.conn.Stream(1)
	must(t, err)
	awaited := make(chan error, 1)
	w.writing = func(int) error {
		go func() { awaited <- stream.AwaitServer(stubWriter{server: s, id: 1}, 100) }()
		// It sees that all has been sent, and yet waits.
		done(t, "awaiting", func() { eventually(s.conn, func() bool { return s.conn.awaiting == 1 }) })
		return nil
	}
	must(t, s.write(1, false, make([]byte, 100)))
	done(t, "awaiting", func() { must(t, <-awaited) })
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
		_, err := stream.SendFile(filerange.Segment{File: openFile(t, make([]byte, 100_000)), Len: 100_000})
		sent <- err
	}()
	eventually(s.conn, func() bool { return s.conn.streamWindow(&stream.account) == 0 && !s.conn.busy })
	done(t, "waiting", func() { eventually(s.conn, func() bool { return !w.isCorked() }) })
	s.receive(update(1, 1<<20))
	done(t, "sending", func() { must(t, <-sent) })
	if w.isCorked() {
		t.Error("corked in the end")
	}
}

// AwaitServer needs no moment in which the server writes nothing.
func TestAwaitServerBesideWrites(t *testing.T) {
	s, w := newConn()
	s.open(1)
	s.open(3)
	stream, err := s.conn.Stream(1)
	must(t, err)
	awaited := make(chan error, 1)
	w.writing = func(int) error {
		w.writing = func(int) error { // the next write lasts until AwaitServer has returned
			done(t, "awaiting", func() { must(t, <-awaited) })
			return nil
		}
		go func() { awaited <- stream.AwaitServer(stubWriter{server: s, id: 1}, 100) }()
		eventually(s.conn, func() bool { return s.conn.awaiting == 1 })
		// It is its turn as soon as this one is over.
		go func() { _ = s.write(3, false, make([]byte, 1)) }()
		eventually(s.conn, func() bool { return len(s.conn.servers) == 1 })
		return nil
	}
	must(t, s.write(1, false, make([]byte, 100)))
	eventually(s.conn, func() bool { return !s.conn.busy })
}
