package http2body

import (
	"errors"
	"net/http"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

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
	testutil.Must(t, err)
	testutil.Must(t, s.write(1, false, make([]byte, 101)))
	if err := stream.AwaitServer(stubWriter{server: s, id: 1}, 100); !errors.Is(err, ErrMismatch) {
		t.Errorf("it ends with %v", err)
	}
	testutil.Must(t, stream.AwaitServer(stubWriter{server: s, id: 1}, 101))
	if err := stream.AwaitServer(struct{ http.ResponseWriter }{}, 101); err == nil {
		t.Error("it ends without a flush")
	}
}

// AwaitServer waits until the server's write is over.
func TestAwaitServerWaits(t *testing.T) {
	s, w := newConn()
	s.open(1)
	stream, err := s.conn.Stream(1)
	testutil.Must(t, err)
	awaited := make(chan error, 1)
	w.writing = func(int) error {
		go func() { awaited <- stream.AwaitServer(stubWriter{server: s, id: 1}, 100) }()
		// It sees that all has been sent, and yet waits.
		testutil.Returns(t, "awaiting", func() { eventually(s.conn, func() bool { return s.conn.awaiting == 1 }) })
		return nil
	}
	testutil.Must(t, s.write(1, false, make([]byte, 100)))
	testutil.Returns(t, "awaiting", func() { testutil.Must(t, <-awaited) })
}

// AwaitServer needs no moment in which the server writes nothing.
func TestAwaitServerBesideWrites(t *testing.T) {
	s, w := newConn()
	s.open(1)
	s.open(3)
	stream, err := s.conn.Stream(1)
	testutil.Must(t, err)
	awaited := make(chan error, 1)
	w.writing = func(int) error {
		w.writing = func(int) error { // the next write lasts until AwaitServer has returned
			testutil.Returns(t, "awaiting", func() { testutil.Must(t, <-awaited) })
			return nil
		}
		go func() { awaited <- stream.AwaitServer(stubWriter{server: s, id: 1}, 100) }()
		eventually(s.conn, func() bool { return s.conn.awaiting == 1 })
		// It is its turn as soon as this one is over.
		go func() { _ = s.write(3, false, make([]byte, 1)) }()
		eventually(s.conn, func() bool { return len(s.conn.servers) == 1 })
		return nil
	}
	testutil.Must(t, s.write(1, false, make([]byte, 100)))
	eventually(s.conn, func() bool { return !s.conn.busy })
}
