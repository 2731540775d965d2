package http2body

import (
	"cmp"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
)

// A Stream is an HTTP/2 stream that a client has opened. Its methods are for one
// goroutine, that of the handler.
type Stream struct {
	conn   *Conn
	id     uint32
	below  http.ResponseWriter // the server's own, set by AwaitServer
	held   []byte              // bytes of the body that Write has kept
	waited bool                // since it was last set to false
	corked bool                // TCP holds back what does not fill a segment

	// Guarded by conn.mu.
	account
	passed   int64 // payload of the server's that has reached the client's side
	through  int64 // those of it whose write is over, while AwaitServer waits
	settling bool  // AwaitServer waits
	taken    bool
	need     int64 // bytes that begin waits for
	queued   bool  // in conn.queue
	turn     bool  // the turn is this stream's
	err      error // why it has ended

	wake chan struct{} // made when the stream is asked for
}

const (
	// wholeFrame is the length of a frame from memory that makes one TLS record (RFC
	// 8446, section 5.1), and maxPayload that of its payload.
	wholeFrame = 1 << 14
	maxPayload = wholeFrame - frameHeaderLen
	// FilePayload is that of a whole frame from a file: a multiple of what the cipher
	// takes at once, see Beginning.
	FilePayload = maxPayload &^ (cipherBlock - 1)
	// cipherBlock is the length of a block of AES, in bytes.
	cipherBlock = 16
	// turnFrames is how many frames a stream sends in one turn.
	turnFrames = 4
	// maxHeld is what Write keeps for the next frame, as the server's own buffer does.
	maxHeld = 4 << 10
	// maxFiller is how much filler is written at once.
	maxFiller = turnFrames * maxPayload
)

// Beginning returns how much of a file's part from offset on the server should send
// before SendFile: at least n bytes. Behind the header of a frame the pages of the file
// then begin at a multiple of a cipher's block in each record. A block that lies in two
// pages takes more: 4 % of all work with Linux 6.12.
func Beginning(offset, n int64) int64 {
	return n + (frameHeaderLen-(offset+n)%cipherBlock+cipherBlock)%cipherBlock
}

// ErrMismatch says that more of the body has gone out than was written: the stream is
// not the one of this response.
var ErrMismatch = errors.New("http2body: not the stream of this response")

// ErrShort says that a file has become too short, before a frame.
var ErrShort = errors.New("http2body: the file has become shorter")

// AwaitServer has the server, whose writer for this stream is w, send everything that was
// written: the header, and n bytes of the body. It returns when that is through.
func (s *Stream) AwaitServer(w http.ResponseWriter, n int64) error {
	if err := http.NewResponseController(w).Flush(); err != nil {
		return err
	}
	s.below = w
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	s.settling = true
	c.settling++
	defer func() {
		s.settling = false
		c.settling--
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

// Take takes over the stream, after AwaitServer, of which some of the body must have been
// sent: then its header has been too. Everything else of the body is sent by SendFile
// and Write.
func (s *Stream) Take() {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	if s.err == nil && !s.taken {
		s.taken = true
		s.conn.taken++
	}
}

// ended returns why nothing can be sent on the stream. conn.mu is held.
func (s *Stream) ended() error { return cmp.Or(s.conn.err, s.err, s.conn.stopped) }

// notify has the stream's goroutine look again.
func (s *Stream) notify() {
	select {
	case s.wake <- struct{}{}:
	default: // it will, or nobody waits
	}
}

// wait waits until something has changed. conn.mu is held, but not meanwhile.
func (s *Stream) wait() {
	s.waited = true
	s.conn.mu.Unlock()
	<-s.wake
	s.conn.mu.Lock()
}

// begin waits for window and for the turn, and takes both, for up to most bytes. It
// returns for how many. They are to be sent in frames, and then the turn is to be
// ended. need is how many of them must be sent; if that is 0 and there is something to
// wait for, it returns 0.
func (s *Stream) begin(need, most int64) (int64, error) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	s.need = need
	for {
		if err := s.ended(); err != nil {
			c.leave(s)
			return 0, err
		}
		if s.turn {
			s.turn = false
			if n := min(most, turnFrames*maxPayload, c.streamWindow(&s.account), c.free(&s.account)); n > 0 {
				c.spend(&s.account, n)
				return n, nil
			}
			c.busy = false // the window is gone meanwhile
		}
		if c.filling == s {
			if err := s.fill(); err != nil {
				c.leave(s)
				return 0, err
			}
			continue
		}
		if !s.queued && c.streamWindow(&s.account) > 0 {
			if need == 0 && (c.busy || len(c.queue) > 0 || len(c.servers) > 0) {
				return 0, nil
			}
			c.enqueue(s)
		}
		if c.dispatch(); s.turn || c.filling == s {
			continue
		}
		if need == 0 {
			c.leave(s)
			return 0, nil
		}
		if s.corked { // nothing may follow for long
			c.mu.Unlock()
			s.cork(false)
			c.mu.Lock()
			continue
		}
		s.wait()
	}
}

// end ends the turn. unsent is what begin has returned and was not sent: all of it or
// nothing.
func (s *Stream) end(unsent int64) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refund(&s.account, unsent)
	c.busy = false
	c.dispatch()
}

// zeros is what the server is given to write if it has window that we need.
var zeros [maxFiller]byte

// fill has the server use up window for nothing, so that it becomes ours. It is
// called when there is no other. conn.mu is held, but not while the server writes.
func (s *Stream) fill() error {
	c := s.conn
	if n := min(c.fillable(&s.account, s.need), c.server, maxFiller); n > 0 {
		c.filler = n
		c.letFill(s)
		c.mu.Unlock()
		_, err := s.below.Write(zeros[:n])
		if err == nil {
			err = http.NewResponseController(s.below).Flush()
		}
		c.mu.Lock()
		for err == nil && c.filler > 0 {
			if err = s.ended(); err == nil {
				s.wait()
			}
		}
		if err != nil {
			return cmp.Or(s.ended(), err)
		}
	}
	c.stopFilling(s)
	c.enqueue(s)
	return nil
}

// letFill gives the server window on the stream for its filler. c.mu is held.
func (c *Conn) letFill(s *Stream) {
	if n := c.missing(&s.account, c.filler); n > 0 {
		s.account.server += n
		c.in.insert(c.wire, windowUpdate(s.id, n))
	}
}

// SendFile sends a segment of a file. The caller has just looked whether the file is
// long enough. After ErrShort the stream is of no more use but to be reset,
// after another error that is not its own the connection.
func (s *Stream) SendFile(part filerange.Segment) (sent filerange.Sent, err error) {
	if err := s.Flush(); err != nil {
		return sent, err
	}
	defer s.cork(false)
	begun := time.Now()
	checked := begun // by the caller
	for part.Len+part.Ahead > 0 {
		if part.Len == 0 && time.Since(begun) > aheadTime {
			break
		}
		k, err := s.begin(part.Len, min(part.Len+part.Ahead, turnFrames*FilePayload))
		if err != nil {
			return sent, err
		}
		if k == 0 {
			break
		}
		if now := time.Now(); s.waited || now.Sub(checked) > checkTime {
			s.waited = false
			if checked = now; shorter(part.File, part.Offset+k) {
				s.end(k)
				return sent, ErrShort
			}
		}
		s.cork(true)
		now, err := s.sendFrames(filerange.Segment{File: part.File, Offset: part.Offset, Len: k})
		sent = sent.Add(now)
		if err != nil {
			return sent, s.conn.fail(err)
		}
		part = part.Rest(k)
		s.end(0)
	}
	return sent, nil
}

const (
	// aheadTime bounds how long SendFile sends ahead: whoever calls it has set a
	// deadline for the bytes that it must send only.
	aheadTime = 50 * time.Millisecond
	// checkTime is how long a file's length is believed, if there is nothing to wait for.
	checkTime = 50 * time.Millisecond
)

func (s *Stream) cork(on bool) {
	s.corked = on
	s.conn.wire.Cork(on)
}

// sendFrames sends a segment of a file in frames: equal ones, and a shorter one at the
// end.
func (s *Stream) sendFrames(part filerange.Segment) (sent filerange.Sent, err error) {
	if whole := part.Len / FilePayload * FilePayload; whole > 0 {
		equal := part
		equal.Len = whole
		if sent, err = s.sendEqual(equal, FilePayload); err != nil {
			return sent, err
		}
		part = part.Rest(whole)
	}
	if part.Len > 0 {
		var last filerange.Sent
		last, err = s.sendEqual(part, part.Len)
		sent = sent.Add(last)
	}
	return sent, err
}

// sendEqual sends frames of payload bytes each.
func (s *Stream) sendEqual(part filerange.Segment, payload int64) (filerange.Sent, error) {
	return s.conn.wire.SendFrames(s.header(make([]byte, 0, frameHeaderLen), payload), part, payload)
}

func (s *Stream) header(b []byte, n int64) []byte {
	return frameHeader{length: int(n), typ: http2.FrameData, stream: s.id}.append(b)
}

// shorter reports whether a file has lost some of its first n bytes.
func shorter(f filerange.File, n int64) bool {
	info, err := f.Stat()
	return err != nil || info.Size() < n
}

// Write sends p in whole frames, as far as there are such. A short rest is kept for
// the next call, Flush or SendFile, unless p is the end of the body. It returns how
// many bytes of p were sent or kept.
func (s *Stream) Write(p []byte, end bool) (n int, err error) {
	for {
		total := len(s.held) + len(p) - n
		if total == 0 || total <= maxHeld && !end {
			s.held = append(s.held, p[n:]...)
			return len(p), nil
		}
		if rest := total % maxPayload; !end && rest <= maxHeld && rest < total {
			total -= rest
		}
		k, err := s.begin(int64(total), int64(total))
		if err != nil {
			return n, err
		}
		held := min(len(s.held), int(k))
		// Frames that lie in one piece, of whole pages, take the kernel less than
		// frames whose headers are elsewhere: that is worth the copy.
		buf := turnBuffers.Get().(*[turnFrames * wholeFrame]byte)
		err = s.conn.pass(s.frames(buf[:0], s.held[:held], p[n:][:int(k)-held]))
		turnBuffers.Put(buf)
		if err != nil {
			return n, s.conn.fail(err)
		}
		s.end(0)
		s.held = slices.Delete(s.held, 0, held)
		n += int(k) - held
	}
}

var turnBuffers = sync.Pool{New: func() any { return new([turnFrames * wholeFrame]byte) }}

// frames appends the frames of a payload that is in two parts.
func (s *Stream) frames(b, first, second []byte) []byte {
	for len(first)+len(second) > 0 {
		n := min(len(first)+len(second), maxPayload)
		m := min(n, len(first))
		b = s.header(b, int64(n))
		b = append(append(b, first[:m]...), second[:n-m]...)
		first, second = first[m:], second[n-m:]
	}
	return b
}

// Flush sends what Write has kept.
func (s *Stream) Flush() error {
	if len(s.held) == 0 {
		return nil
	}
	_, err := s.Write(nil, true)
	return err
}
