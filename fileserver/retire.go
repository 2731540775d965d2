package fileserver

import (
	"bytes"
	"encoding/binary"
	"math"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/http2"
)

// A retired connection (see [ktls.Conn.Retired]) has to end, but no request may
// be lost by it. Over HTTP/1 a response that begins says so (see Insert), and a
// connection that waits for a request waits for retiredIdle only. HTTP/2 has
// GOAWAY: a server that reads one from its client sends one itself, finishes its
// streams and closes the connection, so it is made to read one.

// retiredIdle is how long a retired connection waits for another request, which
// may be on its way: as long as the HTTP/2 server waits after GOAWAY.
const retiredIdle = time.Second

// An idleness says where net/http is between two requests of HTTP/1: it sets a
// read deadline for the waiting, and another one when the first bytes have come.
type idleness = int32

const (
	busy idleness = iota
	beforeWaiting
	waiting
)

// ConnState follows the states of the connections of an http.Server that
// Listener has made; it is to be the server's ConnState hook.
func ConnState(c net.Conn, state http.ConnState) {
	addr, ok := c.LocalAddr().(*localAddr)
	switch {
	case !ok:
	case state == http.StateIdle:
		addr.conn.idle.Store(beforeWaiting)
	default:
		addr.conn.idle.Store(busy)
	}
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error {
	if !c.idle.CompareAndSwap(beforeWaiting, waiting) {
		c.idle.CompareAndSwap(waiting, busy)
	} else if limit := time.Now().Add(retiredIdle); c.tls.Retired() && (t.IsZero() || limit.Before(t)) {
		t = limit
	}
	return c.tls.SetReadDeadline(t)
}

// retired is called when Read has been interrupted.
func (c *Conn) retired() {
	if c.idle.Load() == waiting {
		_ = c.tls.SetReadDeadline(time.Now().Add(retiredIdle))
	}
}

// readGoAway reads the rest of a GOAWAY in the place of the client's bytes, if
// one is to be read and may stand here.
func (c *Conn) readGoAway(p []byte) int {
	if c.goAway == nil {
		if !c.frames.mayInsert() {
			return 0
		}
		var frame bytes.Buffer
		// Never fails. The client's GOAWAY names the last stream of the
		// server's, which has begun none.
		_ = http2.NewFramer(&frame, nil).WriteGoAway(0, http2.ErrCodeNo, nil)
		c.goAway = frame.Bytes()
	}
	n := copy(p, c.goAway)
	c.goAway = c.goAway[n:]
	return n
}

// frameHeaderLen is the length of a frame's header (RFC 9113, section 4.1).
const frameHeaderLen = 9

// inboundFrames tells where the client's HTTP/2 frames begin.
type inboundFrames struct {
	preface int                  // bytes of the preface that were read
	header  [frameHeaderLen]byte // of the last frame, or of the next if n > 0
	n       int                  // bytes of header that were read
	payload int                  // bytes of payload that are to come
	settled bool                 // a frame was read
}

// add takes the next bytes from the client.
func (f *inboundFrames) add(p []byte) {
	n := min(len(p), len(http2.ClientPreface)-f.preface)
	f.preface += n
	p = p[n:]
	for len(p) > 0 {
		if f.payload > 0 {
			n := min(len(p), f.payload)
			f.payload -= n
			p = p[n:]
			continue
		}
		n := copy(f.header[f.n:], p)
		p = p[n:]
		if f.n += n; f.n == frameHeaderLen {
			f.n, f.settled = 0, true
			f.payload = int(binary.BigEndian.Uint32(f.header[:4]) >> 8)
		}
	}
}

// mayInsert reports whether a frame may stand here: between two frames, behind
// the client's SETTINGS, and not inside a header block (RFC 9113, sections 3.4
// and 6.10).
func (f *inboundFrames) mayInsert() bool {
	if !f.settled || f.n > 0 || f.payload > 0 {
		return false
	}
	typ, flags := http2.FrameType(f.header[3]), http2.Flags(f.header[4])
	return typ != http2.FrameHeaders && typ != http2.FrameContinuation || flags.Has(http2.FlagHeadersEndHeaders)
}

// untilNext returns how many bytes may be read without passing the beginning of
// a frame, if one has begun.
func (f *inboundFrames) untilNext() int {
	switch {
	case f.preface < len(http2.ClientPreface):
		return len(http2.ClientPreface) - f.preface
	case f.payload > 0:
		return f.payload
	case f.n > 0:
		return frameHeaderLen - f.n
	}
	return math.MaxInt
}
