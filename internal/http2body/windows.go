package http2body

import (
	"encoding/binary"

	"golang.org/x/net/http2"
)

// received takes a frame about windows, and returns what the server reads in its place.
func (c *Conn) received(h frameHeader, frame []byte) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.typ == http2.FrameSettings {
		if !c.settings(frame[frameHeaderLen:]) {
			return append(frame, tooMuch(0)...)
		}
		return frame
	}
	n := int64(binary.BigEndian.Uint32(frame[frameHeaderLen:]) & maxWindow)
	s := c.streams[h.stream]
	switch {
	case n == 0: // an error, which the server answers
		return frame
	case h.stream == 0:
		return c.granted(frame, n)
	case s == nil:
		return frame
	case !c.grantStream(&s.account, n):
		if s.taken {
			return tooMuch(h.stream)
		}
		return frame
	case s.taken:
		s.notify()
		return nil
	}
	s.server += n
	return frame
}

// granted takes an increment of the connection's window. Caller holds c.mu.
func (c *Conn) granted(frame []byte, n int64) []byte {
	if !c.grant(n) {
		return tooMuch(0)
	}
	c.payDebts()
	n = c.owed()
	c.tell(n)
	c.dispatch()
	if n == 0 {
		return nil
	}
	binary.BigEndian.PutUint32(frame[frameHeaderLen:], uint32(n))
	return frame
}

// tooMuch returns increments that make any window too large. The server knows of only a
// part of the window, but then does what it does about a window that is too large.
func tooMuch(stream uint32) []byte {
	frame := windowUpdate(stream, maxWindow)
	return append(frame, frame...)
}

// settings follows the client's settings, and alters what the server must not know. It
// returns false if a window of which only we know becomes too large. Caller holds c.mu.
func (c *Conn) settings(payload []byte) (ok bool) {
	ok = true
	for ; len(payload) > 0; payload = payload[6:] {
		id, value := binary.BigEndian.Uint16(payload), payload[2:6]
		n := int64(binary.BigEndian.Uint32(value))
		if http2.SettingID(id) != http2.SettingInitialWindowSize || n > maxWindow {
			continue
		}
		var taken []*account
		for _, s := range c.streams {
			if s.taken {
				taken = append(taken, &s.account)
				ok = ok && n+s.granted <= maxWindow
			}
		}
		binary.BigEndian.PutUint32(value, uint32(c.setInitial(n, taken)))
	}
	c.announce()
	if c.filling != nil {
		c.letFill(c.filling)
	}
	c.dispatch()
	return ok
}

func (c *Conn) announced() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.announce()
}

// noted is called when the server reads on, because it has then applied the settings
// before.
func (c *Conn) noted() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ledger.noted()
}
