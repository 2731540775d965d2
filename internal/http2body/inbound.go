package http2body

import (
	"encoding/binary"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// inbound is what the server reads: the frames of its client, and frames that are
// inserted between them. Frames about windows are read whole, because they may be
// altered or left out; of others the header is enough.
type inbound struct {
	preface  int                  // bytes of the preface that were read
	header   [frameHeaderLen]byte // of the last frame, or of the next if n > 0
	n        int                  // bytes of header that were read
	payload  int                  // bytes of payload that are to come
	whole    []byte               // a frame that is read whole, as far as it was read
	settled  bool                 // a frame was read
	settings bool                 // the last one was SETTINGS
	ready    []byte               // what the server reads next

	mu       sync.Mutex // guards what follows
	inserted []byte
	deadline time.Time // of reads, as the server has set it
	woken    bool      // the connection has another one, for the sake of inserted
}

// maxSettings bounds the payload of a SETTINGS frame that is looked at. The server
// takes no more than 100 settings.
const maxSettings = 600

// insert has the server read frames between those of its client.
func (in *inbound) insert(wire Wire, frames []byte) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.inserted = append(in.inserted, frames...)
	in.woken = true
	_ = wire.SetReadDeadline(time.Unix(1, 0))
}

// wokenUp reports whether a read has timed out since frames were inserted.
func (in *inbound) wokenUp(wire Wire) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if !in.woken {
		return false
	}
	in.woken = false
	_ = wire.SetReadDeadline(in.deadline)
	return true
}

// setDeadline sets the deadline of the client's bytes.
func (in *inbound) setDeadline(wire Wire, t time.Time) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.deadline = t
	if in.woken {
		return nil
	}
	return wire.SetReadDeadline(t)
}

// read reads what is ready.
func (in *inbound) read(p []byte) int {
	if len(in.ready) == 0 && in.mayInsert() {
		in.mu.Lock()
		in.ready, in.inserted = in.inserted, nil
		in.mu.Unlock()
	}
	n := copy(p, in.ready)
	in.ready = in.ready[n:]
	return n
}

// most returns how many bytes of the client may be read at once, when nothing is
// ready: up to the end of a header, or of a payload.
func (in *inbound) most() int {
	switch {
	case in.preface < len(http2.ClientPreface):
		return len(http2.ClientPreface) - in.preface
	case in.payload > 0:
		return in.payload
	}
	return frameHeaderLen - in.n
}

// add takes bytes of the client, at most as many as most returns. It reports whether
// the server reads them as they are; if not, something may be ready. c is told of the
// frame.
func (in *inbound) add(p []byte, c *Conn) (pass bool) {
	switch {
	case in.preface < len(http2.ClientPreface):
		in.preface += len(p)
		return true
	case in.payload > 0:
		in.payload -= len(p)
		if len(in.whole) == 0 {
			return true
		}
		if in.whole = append(in.whole, p...); in.payload == 0 {
			in.ready = c.received(parseFrameHeader(in.header[:]), in.whole)
			in.whole = nil
		}
		return false
	}
	in.n += copy(in.header[in.n:], p)
	if in.n == frameHeaderLen {
		in.n = 0
		in.begin(parseFrameHeader(in.header[:]), c)
	}
	return false
}

// begin is called when a frame's header has been read.
func (in *inbound) begin(h frameHeader, c *Conn) {
	if in.settings {
		c.noted()
	}
	in.settings = h.typ == http2.FrameSettings
	in.payload = h.length
	in.settled = true
	switch {
	case h.typ == http2.FrameWindowUpdate && h.length == 4, isSettings(h):
		in.whole = append(make([]byte, 0, frameHeaderLen+h.length), in.header[:]...)
		return
	case h.typ == http2.FrameHeaders:
		c.opened(h.stream)
	case h.typ == http2.FrameRSTStream:
		c.clientReset(h.stream)
	case h.typ == http2.FrameSettings && !h.flags.Has(http2.FlagSettingsAck):
		c.announced() // and that is all of it that counts
	}
	in.ready = in.header[:]
}

// isSettings reports whether a frame has settings that the server accepts, as far as
// its header tells.
func isSettings(h frameHeader) bool {
	return h.typ == http2.FrameSettings && !h.flags.Has(http2.FlagSettingsAck) &&
		h.length > 0 && h.length <= maxSettings && h.length%6 == 0
}

// mayInsert reports whether a frame may stand here: between two frames, behind
// the client's SETTINGS, and not inside a header block (RFC 9113, sections 3.4
// and 6.10).
func (in *inbound) mayInsert() bool {
	return in.settled && in.n == 0 && in.payload == 0 && parseFrameHeader(in.header[:]).endsBlock()
}

// received takes a frame about windows, and returns what the server reads in its
// place.
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

// granted takes an increment of the connection's window. c.mu is held.
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

// tooMuch returns increments by which any window becomes too large: the server, which
// knows of a part of it only, does then what it does about that.
func tooMuch(stream uint32) []byte {
	frame := windowUpdate(stream, maxWindow)
	return append(frame, frame...)
}

// settings follows the client's settings, and alters what the server must not know. It
// returns false if a window becomes too large that only we know of. c.mu is held.
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

// noted is called when the server reads on: it has taken note of the settings before.
func (c *Conn) noted() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ledger.noted()
}
