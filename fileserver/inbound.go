package fileserver

import (
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// inbound is what the HTTP/2 server reads: the frames of its client, and frames
// that are inserted between them.
type inbound struct {
	preface int                  // bytes of the preface that were read
	header  [frameHeaderLen]byte // of the last frame, or of the next if n > 0
	n       int                  // bytes of header that were read
	payload int                  // bytes of payload that are to come
	settled bool                 // a frame was read
	ready   []byte               // what the server reads next

	mu       sync.Mutex // guards what follows
	inserted []byte
	deadline time.Time // of reads, as net/http has set it
	woken    bool      // the connection has another one, for the sake of inserted
}

// insert has the server read frames between those of its client.
func (c *Conn) insert(frames []byte) {
	in := &c.inbound
	in.mu.Lock()
	defer in.mu.Unlock()
	in.inserted = append(in.inserted, frames...)
	in.woken = true
	_ = c.tls.SetReadDeadline(time.Unix(1, 0))
}

// wokenUp reports whether Read has timed out since frames were inserted.
func (c *Conn) wokenUp() bool {
	in := &c.inbound
	in.mu.Lock()
	defer in.mu.Unlock()
	if !in.woken {
		return false
	}
	in.woken = false
	_ = c.tls.SetReadDeadline(in.deadline)
	return true
}

// setReadDeadline sets the deadline of the client's bytes.
func (c *Conn) setReadDeadline(t time.Time) error {
	in := &c.inbound
	in.mu.Lock()
	defer in.mu.Unlock()
	in.deadline = t
	if in.woken {
		return nil
	}
	return c.tls.SetReadDeadline(t)
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

// add takes bytes of the client, at most as many as most returns. It returns how
// many of them the server reads as they are; if none, something may be ready.
// reset is called when the client resets a stream.
func (in *inbound) add(p []byte, reset func(stream uint32) error) (int, error) {
	switch {
	case in.preface < len(http2.ClientPreface):
		in.preface += len(p)
		return len(p), nil
	case in.payload > 0:
		in.payload -= len(p)
		return len(p), nil
	}
	in.n += copy(in.header[in.n:], p)
	if in.n < frameHeaderLen {
		return 0, nil
	}
	in.n = 0
	return 0, in.begin(parseFrameHeader(in.header[:]), reset)
}

// begin is called when a frame's header has been read.
func (in *inbound) begin(h frameHeader, reset func(stream uint32) error) error {
	in.payload = h.length
	in.settled = true
	in.ready = in.header[:]
	if h.typ == http2.FrameRSTStream {
		return reset(h.stream)
	}
	return nil
}

// mayInsert reports whether a frame may stand here: between two frames, behind
// the client's SETTINGS, and not inside a header block (RFC 9113, sections 3.4
// and 6.10).
func (in *inbound) mayInsert() bool {
	if !in.settled || in.n > 0 || in.payload > 0 {
		return false
	}
	last := parseFrameHeader(in.header[:])
	return last.typ != http2.FrameHeaders && last.typ != http2.FrameContinuation ||
		last.flags.Has(http2.FlagHeadersEndHeaders)
}
