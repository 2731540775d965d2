package http2body

import (
	"cmp"
	"net/http"
)

// maxFiller is how much filler is written at once, in bytes.
const maxFiller = turnFrames * maxPayload

// zeros is what the server writes when it has window that we need.
var zeros [maxFiller]byte

// fill makes the server use up window for nothing, so that the window becomes ours. It is
// called when there is no other window. Caller holds conn.mu, which fill releases while
// the server writes.
func (s *Stream) fill() error {
	c := s.conn
	if n := min(c.fillable(&s.account, s.need), c.server, maxFiller); n > 0 {
		c.filler = n
		c.letFill(s)
		c.mu.Unlock()
		_, err := s.writer.Write(zeros[:n])
		if err == nil {
			err = http.NewResponseController(s.writer).Flush()
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

// letFill gives the server enough window on the stream for its filler. Caller holds c.mu.
func (c *Conn) letFill(s *Stream) {
	if n := c.missing(&s.account, c.filler); n > 0 {
		s.account.server += n
		c.in.insert(c.wire, windowUpdate(s.id, n))
	}
}

// stopFilling notes that no more filler should come on a stream. Caller holds c.mu.
func (c *Conn) stopFilling(s *Stream) {
	if c.filling == s {
		c.filling, c.filler = nil, 0
	}
}
