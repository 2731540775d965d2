package http2body

import (
	"bytes"
	"errors"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A body of all the window that every connection begins with goes out without anything
// that the client grants, and the server is never asked to write more than the body.
func TestFiller(t *testing.T) {
	body := testutil.Body(initialWindow)
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
			testutil.Must(t, s.write(5, false, body[:30_000]))
			return 30_000
		}},
		{"the server has little left for it", 50_000, func(t *testing.T, s *stubServer, _ *testWire) int {
			testutil.Must(t, s.write(5, false, body[:60_000]))
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
			file := testutil.OpenFile(t, body[:tt.n])
			testutil.Returns(t, "sending", func() {
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

// What a stream has in reserve others can use when the client lowers its window.
func TestReserveOfClosedStream(t *testing.T) {
	s, w, poor, rich := withReserve(t)
	body := testutil.Body(100)
	s.receive(initialSize(0), update(1, 100))
	testutil.Returns(t, "sending", func() {
		if n, err := poor.Write(body, true); n != 100 || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
	})
	// It is not to be asked for filler again, of which there was as much as there will
	// be of the body.
	s.receive(update(0, 200), update(3, 1000))
	testutil.Returns(t, "sending", func() {
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
	testutil.Must(t, s.write(1, false, make([]byte, 1000))) // swallowed
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
	body := testutil.Body(100)
	poor, _ := s.take(t, 1), s.take(t, 3)
	testutil.Must(t, s.write(3, false, make([]byte, 100))) // swallowed
	testutil.Must(t, s.write(5, false, make([]byte, initialWindow-100)))
	s.receive(update(1, 1000))
	failed := make(chan error, 1)
	go func() {
		_, err := poor.Write(body, true)
		failed <- err
	}()
	testutil.Returns(t, "waiting", func() { eventually(s.conn, func() bool { return len(s.conn.queue) == 1 }) })
	s.receive(initialSize(0))
	testutil.Returns(t, "sending", func() { testutil.Must(t, <-failed) })
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
			testutil.Returns(t, "waiting", func() { eventually(s.conn, func() bool { return s.conn.filler > 0 }) })
			end := func() {
				close(may)
				testutil.Returns(t, "the filler", func() {
					testutil.WantError(t, <-failed, tt.err)
				})
			}
			if tt.reset {
				s.receive(reset(1))
				defer end()
			} else {
				end()
			}
			testutil.Returns(t, "sending", func() {
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
