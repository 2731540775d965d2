package http2body

import (
	"cmp"
	"errors"
	"net/http"

	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/internal/pagecache"
)

// A Stream is an HTTP/2 stream that a client has opened. Its methods are for one
// goroutine, that of the handler. All fields except the shared ones belong to that
// goroutine.
type Stream struct {
	conn   *Conn
	id     uint32
	writer http.ResponseWriter // the server's own, set by AwaitServer
	held   []byte              // bytes of the body that Write has kept
	waited bool                // wait was called since waited was last set to false
	corked bool                // TCP holds back what does not fill a segment
	pages  pagecache.Window    // of the file that is sent
	wake   chan struct{}       // made before the handler gets the stream

	sharedState
}

// A sharedState is what a connection knows of a stream. Conn.mu guards it.
type sharedState struct {
	account
	passed   int64 // payload of the server that has passed to the client's side
	through  int64 // the part of passed whose write is over, while AwaitServer waits
	awaiting bool  // AwaitServer waits
	taken    bool  // see Take
	need     int64 // bytes that takeTurn waits for
	queued   bool  // in turns.queue
	turn     bool  // the turn is this stream's
	err      error // why it has ended
}

// ErrMismatch says that more of the body has gone out than was written. So the stream is
// not that of this response.
var ErrMismatch = errors.New("http2body: not the stream of this response")

// AwaitServer makes the server send everything that was written on this stream: the
// header, and n bytes of the body. w is the server's writer. It returns when these writes
// are over.
func (s *Stream) AwaitServer(w http.ResponseWriter, n int64) error {
	if err := http.NewResponseController(w).Flush(); err != nil {
		return err
	}
	s.writer = w
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	s.awaiting = true
	c.awaiting++
	defer func() {
		s.awaiting = false
		c.awaiting--
	}()
	for s.through = 0; s.through < n && (s.passed < n || c.writing); {
		if err := s.ended(); err != nil {
			return err
		}
		s.wait()
	}
	if s.passed > n {
		return ErrMismatch
	}
	return s.ended()
}

// Take takes over the stream, after AwaitServer. Some of the body must have been sent,
// because the header has then been sent too. SendFile and Write send the rest of the
// body.
func (s *Stream) Take() {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	if s.err == nil && !s.taken {
		s.taken = true
		s.conn.taken++
	}
}

// ended returns why nothing can be sent on the stream. Caller holds conn.mu.
func (s *Stream) ended() error { return cmp.Or(s.conn.err, s.err, s.conn.stopped) }

// notify makes the stream's goroutine look again. Caller holds conn.mu.
func (s *Stream) notify() {
	select {
	case s.wake <- struct{}{}:
	default: // it will look anyway, or nobody waits
	}
}

// wait waits until something has changed. Caller holds conn.mu, which wait releases
// meanwhile.
func (s *Stream) wait() {
	s.waited = true
	s.conn.mu.Unlock()
	<-s.wake
	s.conn.mu.Lock()
}

// waitFor waits until it can receive from ready, or the stream has ended. Then it returns
// why.
func (s *Stream) waitFor(ready <-chan struct{}) error {
	s.waited = true
	for {
		s.conn.mu.Lock()
		err := s.ended()
		s.conn.mu.Unlock()
		if err != nil {
			return err
		}
		select {
		case <-ready:
			return nil
		case <-s.wake: // perhaps it has ended
		}
	}
}

// waitUncorked is wait, but TCP holds back nothing meanwhile, because nothing may follow
// for long. If TCP held back something, waitUncorked does not wait. Caller holds conn.mu,
// which it releases meanwhile.
func (s *Stream) waitUncorked() {
	if !s.corked {
		s.wait()
		return
	}
	s.conn.mu.Unlock()
	s.cork(false)
	s.conn.mu.Lock()
}

func (s *Stream) cork(on bool) {
	s.corked = on
	s.conn.wire.Cork(on)
}

// header appends the header of a DATA frame with n bytes of payload.
func (s *Stream) header(b []byte, n int64) []byte {
	return frameHeader{length: int(n), typ: http2.FrameData, stream: s.id}.append(b)
}
