package http2body

import "golang.org/x/net/http2"

// inbound is what the server reads: the frames of its client, and frames that are
// inserted between them. Frames about windows are read whole, because they may be
// altered or left out; of others the header is enough. All but the insertion belongs to
// the goroutine that reads.
type inbound struct {
	preface  int                  // bytes of the preface that were read
	header   [frameHeaderLen]byte // of the last frame, or of the next if n > 0
	n        int                  // bytes of header that were read
	payload  int                  // bytes of payload that are to come
	whole    []byte               // a frame that is read whole, as far as it was read
	begun    bool                 // a frame was read
	settings bool                 // the last one was SETTINGS
	ready    []byte               // what the server reads next

	insertion
}

// maxSettings bounds the payload of a SETTINGS frame that is looked at. The server
// takes no more than 100 settings.
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
	return in.begun && in.n == 0 && in.payload == 0 && parseFrameHeader(in.header[:]).endsBlock()
}
