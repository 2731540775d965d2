package http2body

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
)

// A Wire is the connection below. It carries plain bytes of HTTP/2 in both directions.
type Wire interface {
	Read(p []byte) (int, error)
	Write(p []byte) (int, error)
	SetReadDeadline(t time.Time) error
	// SendFrames writes a segment of a file, a multiple of payload bytes, with header
	// before each payload. It doesn't copy the file if it can avoid that. If the file
	// ends too early, the error is io.ErrUnexpectedEOF. SendFrames is called only for
	// streams that were taken over.
	SendFrames(header []byte, part filerange.Segment, payload int64) (filerange.Sent, error)
	// Cork makes TCP hold back what does not fill a segment, or stops that.
	Cork(on bool)
	// Abort cuts the connection off after a write has failed.
	Abort()
}

var (
	errReset  = errors.New("http2body: the client has reset the stream")
	errEnded  = errors.New("http2body: the server has ended the stream")
	errGoAway = errors.New("http2body: the server has given up the connection")
)

// A Conn is an HTTP/2 connection between a server and its client. The server reads from
// it and writes to it.
type Conn struct {
	wire Wire
	in   inbound  // belongs to the reader, except what its lock guards
	out  outbound // belongs to the server's turn

	mu sync.Mutex // guards what follows, and the streams
	ledger
	streams map[uint32]*Stream // the open streams
	last    uint32             // the highest stream number that the client has opened
	turns
	stopped error // why only the server may send
	err     error // why nobody may
}

// maxStreams limits how many streams are known. The server allows 250 at a time. But the
// client may open more, and the server does not answer while it is going away.
const maxStreams = 1000

// New returns a connection that has just begun. The preface is read first.
func New(wire Wire) *Conn {
	return &Conn{wire: wire, ledger: newLedger(), turns: turns{between: true}}
}

// Read reads what the server should read. Errors are those of the wire.
func (c *Conn) Read(p []byte) (int, error) {
	for {
		if n := c.in.read(p); n > 0 {
			return n, nil
		}
		n, err := c.wire.Read(p[:min(len(p), c.in.most())])
		if n > 0 { // an error that matters comes again
			if c.in.add(p[:n], c) {
				return n, nil
			}
			continue
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || !c.in.wokenUp(c.wire) {
			return 0, err
		}
	}
}

// Begun reports whether the client has sent a frame. It is for the goroutine that reads.
func (c *Conn) Begun() bool { return c.in.begun }

// SetReadDeadline sets the deadline of Read.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.in.setDeadline(c.wire, t) }

// Insert makes the server read frames as if its client had sent them, even if it is
// reading now.
func (c *Conn) Insert(write func(*http2.Framer) error) { c.in.insert(c.wire, Frames(write)) }

// Write writes what the server writes. It waits until no other sender is in the middle of
// a turn.
func (c *Conn) Write(p []byte) (int, error) {
	if err := c.beginWrite(); err != nil {
		return 0, err
	}
	if err := c.out.write(c, p); err != nil {
		return 0, c.fail(err) // nobody gets the turn after that
	}
	c.endWrite(c.out.between())
	return len(p), nil
}

// pass writes bytes of the server unchanged.
func (c *Conn) pass(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	_, err := c.wire.Write(p)
	return err
}

// fail ends all sending after a write has failed, because nobody knows how much of the
// write the client has.
func (c *Conn) fail(err error) error {
	c.Close(err)
	if !errors.Is(err, net.ErrClosed) { // then the last bytes may be on their way
		c.wire.Abort()
	}
	return err
}

// Close ends all sending. err says why; nil stands for net.ErrClosed.
func (c *Conn) Close(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		if c.err = err; err == nil {
			c.err = net.ErrClosed
		}
		c.wakeAll()
	}
}

// stop ends all sending except the server's.
func (c *Conn) stop(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = err
	c.notifyAll()
}

// notifyAll makes all streams look again. Caller holds c.mu.
func (c *Conn) notifyAll() {
	for _, s := range c.streams {
		s.notify()
	}
}

// Release gives all windows to the server, because no stream of this connection will be
// taken over. If a stream was taken over, it does nothing.
func (c *Conn) Release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.released && c.taken == 0 {
		c.released = true
		c.topUp()
	}
}

// topUp tells the server what it is owed. Caller holds c.mu.
func (c *Conn) topUp() {
	c.payDebts()
	if n := c.owed(); n > 0 {
		c.tell(n)
		c.in.insert(c.wire, windowUpdate(0, n))
	}
}

// opened is called when the client sends HEADERS, which either open a stream or are
// trailers.
func (c *Conn) opened(id uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id <= c.last || id%2 == 0 {
		return
	}
	c.last = id
	if len(c.streams) >= maxStreams {
		return
	}
	if c.streams == nil {
		c.streams = make(map[uint32]*Stream)
	}
	c.streams[id] = &Stream{conn: c, id: id}
}

func (c *Conn) clientReset(id uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.streams[id]; s != nil {
		c.end(s, errReset)
	}
}

// end forgets a stream, on which nothing may be sent any more. Caller holds c.mu.
func (c *Conn) end(s *Stream, err error) {
	s.err = err
	if s.taken {
		c.taken--
	}
	c.forget(&s.account)
	c.stopFilling(s)
	if delete(c.streams, s.id); len(c.streams) == 0 {
		c.streams = nil // most connections are idle most of the time
	}
	s.notify()
	c.dispatch()
}

// ErrUnknown says that the client has not opened the stream, or that Stream was called
// for it before.
var ErrUnknown = errors.New("http2body: the stream is not known")

// Stream returns the stream with a number, for a response that begins. It returns
// ErrUnknown, or another error if the stream has ended.
func (c *Conn) Stream(id uint32) (*Stream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[id]
	switch {
	case s == nil && id <= c.last && id%2 == 1:
		return nil, errEnded
	case s == nil || s.wake != nil:
		return nil, ErrUnknown
	}
	s.wake = make(chan struct{}, 1)
	return s, nil
}
