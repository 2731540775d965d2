package http2body

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/net/http2"
)

// outbound follows the frames that the server writes, from the first byte on. They pass
// unchanged, except for the payload of streams that were taken over.
type outbound struct {
	partial []byte      // the beginning of a frame's header
	frame   frameHeader // header of the last frame
	left    int         // bytes of its payload that are still to come
	drop    bool        // its payload does not pass
	goAway  [8]byte     // the beginning of the payload of GOAWAY
}

// write passes on the next bytes of the server.
func (o *outbound) write(c *Conn, p []byte) error {
	if len(o.partial) > 0 {
		p = append(o.partial, p...)
		o.partial = nil
	}
	begin := 0 // p[begin:] is still to be passed
	for i := 0; i < len(p); {
		if o.left == 0 {
			if len(p)-i < frameHeaderLen {
				o.partial = bytes.Clone(p[i:])
				p = p[:i]
				break
			}
			o.frame = parseFrameHeader(p[i:])
			o.left = o.frame.length
			if o.drop = c.sent(o.frame); o.drop {
				if err := c.pass(p[begin:i]); err != nil {
					return err
				}
				if err := c.pass(endOf(o.frame)); err != nil {
					return err
				}
			}
			i += frameHeaderLen
		}
		n := min(o.left, len(p)-i)
		if o.frame.typ == http2.FrameGoAway && o.left > 0 {
			o.goingAway(c, p[i:i+n])
		}
		o.left -= n
		i += n
		if o.drop {
			begin = i
		}
	}
	return c.pass(p[begin:])
}

// endOf returns the frame that passes in place of one whose payload does not pass: an
// empty one if it ends the stream, otherwise none.
func endOf(h frameHeader) []byte {
	if !h.endsStream() {
		return nil
	}
	return frameHeader{typ: http2.FrameData, flags: http2.FlagDataEndStream, stream: h.stream}.append(nil)
}

// goingAway takes bytes of the payload of GOAWAY. After a GOAWAY with an error the server
// sends nothing else, and closes the connection soon.
func (o *outbound) goingAway(c *Conn, p []byte) {
	done := o.frame.length - o.left
	if done >= len(o.goAway) {
		return
	}
	n := copy(o.goAway[done:], p)
	if done+n == len(o.goAway) && binary.BigEndian.Uint32(o.goAway[4:]) != 0 {
		c.stop(errGoAway)
	}
}

// between reports whether a frame of ours may follow.
func (o *outbound) between() bool {
	return o.left == 0 && len(o.partial) == 0 && o.frame.endsBlock()
}

// sent notes a frame of the server, and reports whether its payload must be dropped.
func (c *Conn) sent(h frameHeader) (drop bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.typ == http2.FrameSettings && h.flags.Has(http2.FlagSettingsAck) {
		c.acknowledge()
		c.notifyAll()
	}
	s := c.streams[h.stream]
	if h.typ == http2.FrameData && h.length > 0 {
		drop = c.sentData(s, int64(h.length))
	}
	if s != nil && (h.endsStream() || h.typ == http2.FrameRSTStream) {
		c.end(s, errEnded)
	}
	return drop
}

// sentData notes n bytes of payload that the server sends, and reports whether they must
// be dropped. s is nil if the stream is not known. Caller holds c.mu.
func (c *Conn) sentData(s *Stream, n int64) (drop bool) {
	switch {
	case s == nil:
		c.serverSent(nil, n)
	case s.taken:
		c.swallowed(&s.account, n)
		if c.filling == s {
			c.filler = max(c.filler-n, 0)
		}
		s.notify()
		return true
	default:
		c.serverSent(&s.account, n)
		s.passed += n
	}
	if c.short() {
		c.topUp()
	}
	return false
}
