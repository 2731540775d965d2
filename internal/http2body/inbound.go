package http2body

import "golang.org/x/net/http2"

// inbound is what the server reads: the frames of its client, with inserted frames
// between them. Frames about windows are read whole, because they may be altered or left
// out. Of other frames only the header is needed. All fields except the insertion belong
// to the goroutine that reads.
type inbound struct {
	preface  int                  // how many bytes of the preface were read
	header   [frameHeaderLen]byte // header of the last frame, or of the next one if n > 0
	n        int                  // how many bytes of header were read
	payload  int                  // how many bytes of payload are still to come
	whole    []byte               // what was read so far of a frame that is read whole
	begun    bool                 // a frame was read
	settings bool                 // the last frame was SETTINGS
	ready    []byte               // what the server reads next

	insertion
}

// maxSettings limits the payload of a SETTINGS frame that is looked at, in bytes. The
// server takes no more than 100 settings.
const maxSettings = 600

// read reads what is ready.
func (in *inbound) read(p []byte) int {
	if len(in.ready) == 0 && in.mayInsert() {
		in.ready = in.takeInserted()
	}
	n := copy(p, in.ready)
	in.ready = in.ready[n:]
	return n
}

// most returns how many bytes may be read from the client at once, when nothing is ready:
// up to the end of a header, or of a payload.
func (in *inbound) most() int {
	switch {
	case in.preface < len(http2.ClientPreface):
		return len(http2.ClientPreface) - in.preface
	case in.payload > 0:
		return in.payload
	}
	return frameHeaderLen - in.n
}

// add takes bytes of the client, no more than most returns. It reports whether the server
// reads them unchanged. If not, something may be ready. c is told of the frame.
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
	in.begun = true
	switch {
	case h.typ == http2.FrameWindowUpdate && h.length == 4, isSettings(h):
		in.whole = append(make([]byte, 0, frameHeaderLen+h.length), in.header[:]...)
		return
	case h.typ == http2.FrameHeaders:
		c.opened(h.stream)
	case h.typ == http2.FrameRSTStream:
		c.clientReset(h.stream)
	case h.typ == http2.FrameSettings && !h.flags.Has(http2.FlagSettingsAck):
		c.announced() // nothing else in it matters
	}
	in.ready = in.header[:]
}

// isSettings reports whether a frame has settings that the server accepts, as far as the
// header shows.
func isSettings(h frameHeader) bool {
	return h.typ == http2.FrameSettings && !h.flags.Has(http2.FlagSettingsAck) &&
		h.length > 0 && h.length <= maxSettings && h.length%6 == 0
}

// mayInsert reports whether a frame may be inserted here: between two frames, behind the
// client's SETTINGS, and not inside a header block (RFC 9113, sections 3.4 and 6.10).
func (in *inbound) mayInsert() bool {
	return in.begun && in.n == 0 && in.payload == 0 && parseFrameHeader(in.header[:]).endsBlock()
}
