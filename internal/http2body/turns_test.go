package http2body

import (
	"bytes"
	"errors"

	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// Two files take turns of four frames.
func TestTurns(t *testing.T) {
	server, w := newConn()
	c := server.conn
	const frames = 40
	body := testutil.Body(frames * FilePayload)
	file := testutil.OpenFile(t, body)
	server.receive(update(0, 1<<30), update(0, 1<<30))
	streams := []*Stream{server.take(t, 1), server.take(t, 3)}
	server.receive(update(1, 1<<30), update(3, 1<<30))
	var finished atomic.Bool
	w.writing = func(int) error { // the other one is to wait before this turn is over
		eventually(c, func() bool { return len(c.queue) == 1 || finished.Load() })
		return nil
	}
	testutil.Returns(t, "sending", func() {
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
	body := testutil.Body(200_000)
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
			testutil.Must(t, s.write(5, false, body[:initialWindow]))
			file := testutil.OpenFile(t, body)
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
			testutil.Must(t, err)
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
				testutil.Returns(t, "waiting", func() { eventually(s.conn, waits) })
				w.taken()
				tt.end(s)
				testutil.Returns(t, "sending", func() {
					testutil.WantError(t, <-failed, tt.err)
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
	testutil.Returns(t, "waiting", func() { eventually(s.conn, func() bool { return len(s.conn.servers) == 1 }) })
	s.conn.Close(nil)
	testutil.Returns(t, "the server's write", func() {
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

// A stream that was given window of its own does not wait behind one that has none.
func TestReserveGoesFirst(t *testing.T) {
	s, w, poor, rich := withReserve(t)
	body := testutil.Body(1000)
	failed := make(chan error, 1)
	go func() {
		_, err := poor.Write(body, true)
		failed <- err
	}()
	testutil.Returns(t, "waiting", func() { eventually(s.conn, func() bool { return len(s.conn.queue) == 1 }) })
	testutil.Returns(t, "sending", func() {
		if n, err := rich.Write(body[:100], true); n != 100 || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
	})
	s.receive(update(0, 2000))
	testutil.Returns(t, "sending", func() { testutil.Must(t, <-failed) })
	if got, _ := bodies(t, w.taken()); !bytes.Equal(got[1], body) || !bytes.Equal(got[3], body[:100]) {
		t.Errorf("%d and %d bytes were sent", len(got[1]), len(got[3]))
	}
}

// The server is told of more as soon as it has used half, also if a stream goes next.
func TestServersShareFirst(t *testing.T) {
	s, w := newConn()
	s.open(5)
	s.receive(update(0, 1<<30), update(5, 1<<30), initialSize(1<<30))
	s.streams[5] += 1 << 30
	stream := s.take(t, 1)
	testutil.Must(t, s.write(5, false, make([]byte, serverShare/2)))
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
	testutil.Must(t, s.write(5, false, make([]byte, 1)))
	testutil.Returns(t, "sending", func() { testutil.Must(t, <-failed) })
	if want := written(update(0, serverShare/2+1)); !bytes.Equal(got, want) {
		t.Errorf("the server reads %x, want %x", got, want)
	}
}
