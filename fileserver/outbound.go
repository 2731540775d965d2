package fileserver

import (
	"bytes"
	"io"
	"net"
	"sync"

	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// outbound follows the frames that the HTTP/2 server writes, from the first byte
// on. Frames pass as they are, but DATA: if its payload is a placeholder, the
// bytes of the file go out instead, and if nobody waits for these, nothing.
//
// The server could be made to write longer frames, which would spare it some of
// its work. But each connection has a buffer for one frame, and with many
// connections these buffers leave the processor's cache before their turn comes
// again: with frames of 64 KiB each byte that was sent took 2.6 bytes of memory
// traffic, with frames of 16 KiB 1.3 (16 connections, cache of 2 MiB).
type outbound struct {
	to frameSender

	partial []byte      // the beginning of a frame
	frame   frameHeader // the frame that is being written
	left    int         // bytes of its payload that are to come
	fate    fate
	body    *stream // that the frame's payload belongs to, if it is DATA
	alone   stream  // of which the frame is all, so that it is in no map
	lead    []byte  // other frames, that go out with the first bytes of the file

	mu      sync.Mutex // guards what follows, and the streams
	changed sync.Cond  // a stream of which something is announced
	streams map[uint32]*stream
	sending []*stream // those of which something is announced
	lost    []lostStream
	frames  uint64 // that have begun
	tags    int
	closed  bool
	err     error // why, if not as it should be
}

func newOutbound(to frameSender) *outbound {
	o := &outbound{to: to}
	o.changed.L = &o.mu
	return o
}

// A fate is what becomes of a frame.
type fate uint8

const (
	passes fate = iota
	isReplaced
	isDropped
)

// A frameSender does for an outbound what takes a connection.
type frameSender interface {
	// pass writes bytes as they are.
	pass(p []byte) error
	// offloaded reports whether sendFile needs no copy.
	offloaded() bool
	// sendFile writes lead, and then n bytes of f from offset on.
	sendFile(lead []byte, f ktls.File, offset int64, n int) (sentBy, error)
	// insert has the server read frames as if its client had sent them.
	insert(frames []byte)
}

// A sentBy says how bytes of a file went out.
type sentBy uint8

const (
	byKernel sentBy = iota
	byCopy
	byCopyRefused // the kernel has refused to send them
)

// write takes the next bytes of the server, and returns those that are still to
// be passed. After an error the connection is to be closed.
func (o *outbound) write(p []byte) (rest []byte, err error) {
	if len(o.partial) > 0 {
		p = append(o.partial, p...)
		o.partial = nil
	}
	begin := 0 // p[begin:] is still to go out
	for i := 0; i < len(p); {
		if o.left == 0 {
			if !isBeginning(p[i:]) {
				o.partial = bytes.Clone(p[i:])
				p = p[:i]
				break
			}
			if err := o.begins(parseFrameHeader(p[i:]), p[i+frameHeaderLen:]); err != nil {
				return nil, err
			}
			if o.fate != passes {
				if err := o.passFirst(p[begin:i]); err != nil {
					return nil, err
				}
			}
			i += frameHeaderLen
		}
		n := min(o.left, len(p)-i)
		if err := o.payload(p[i : i+n]); err != nil {
			return nil, err
		}
		i += n
		if o.fate != passes {
			begin = i
		}
		if o.left == 0 {
			if err := o.ends(); err != nil {
				return nil, err
			}
		}
	}
	return p[begin:], nil
}

// isBeginning reports whether enough of a frame is there to decide what becomes
// of it.
func isBeginning(p []byte) bool {
	return len(p) >= frameHeaderLen && len(p) >= frameHeaderLen+min(parseFrameHeader(p).length, leastTag)
}

// begins decides what becomes of a frame. rest is what is there of its payload,
// and perhaps of more frames.
func (o *outbound) begins(h frameHeader, rest []byte) error {
	o.frame, o.left, o.fate, o.body = h, h.length, passes, nil
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return net.ErrClosed
	}
	o.frames++
	if h.typ != http2.FrameData {
		return nil
	}
	s := o.streams[h.stream]
	switch {
	case s != nil:
	case h.endsStream():
		o.alone = stream{}
		s = &o.alone
	default:
		s = o.stream(h.stream)
	}
	o.body = s
	n := int64(h.length)
	some, all := s.announced(n)
	switch {
	case s.refused:
		o.fate = isDropped
	case n == 0:
	case some && all && (s.over || s.file == nil):
		o.fate = isDropped
	case some && all && !h.flags.Has(http2.FlagDataPadded):
		o.fate = isReplaced
	case some, o.misplaced(rest[:min(len(rest), h.length)]):
		return errPlaceholder
	}
	return nil
}

// passFirst takes care of the bytes before a frame that does not pass.
func (o *outbound) passFirst(p []byte) error {
	if o.fate != isReplaced || !o.to.offloaded() {
		return o.pass(p)
	}
	o.lead = append(o.lead, p...)
	return nil
}

// payload takes bytes of a frame's payload.
func (o *outbound) payload(p []byte) error {
	done := o.frame.length - o.left
	o.left -= len(p)
	if o.fate == isReplaced && !o.body.isPlaceholder(p, o.body.seen+int64(done)) {
		return errPlaceholder
	}
	return nil
}

// ends does what is due at the end of a frame.
func (o *outbound) ends() error {
	var err error
	switch o.fate {
	case isReplaced:
		err = o.sendFile()
	case isDropped:
		o.giveBack(o.frame.length)
	}
	h := o.frame
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.body != nil {
		o.body.seen += int64(h.length)
		if o.fate == isReplaced {
			o.changed.Broadcast()
		}
	}
	if s := o.streams[h.stream]; s != nil && !s.refused && (h.endsStream() || h.typ == http2.FrameRSTStream) {
		s.over = true
		o.changed.Broadcast()
		delete(o.streams, h.stream)
	}
	return err
}

// sendFile sends bytes of a file in the place of the frame that has ended. If
// nobody waits for them it sends nothing; if the file has become too short it
// resets the stream.
func (o *outbound) sendFile() (err error) {
	s, n := o.body, o.frame.length
	if !o.hold(s) {
		o.giveBack(n)
		return o.passLead()
	}
	defer func() { o.release(s, err) }()
	offset := s.offset + s.seen - s.begin
	if shorter(s.file, offset+int64(n)) {
		o.refuse(o.frame.stream, io.ErrUnexpectedEOF)
		o.giveBack(n)
		return o.passLead()
	}
	o.lead = o.frame.append(o.lead)
	by, err := o.to.sendFile(o.lead, s.file, offset, n)
	o.lead = o.lead[:0]
	switch by {
	case byKernel:
		s.byKernel += int64(n)
	case byCopyRefused:
		s.noSendfile = true
	}
	s.whole = err == nil && s.seen+int64(n) >= s.end
	return err
}

func (o *outbound) passLead() error {
	lead := o.lead
	o.lead = o.lead[:0]
	return o.pass(lead)
}

// hold keeps a stream's file from being closed until release, if it is waited for.
func (o *outbound) hold(s *stream) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	s.busy = !s.over && s.file != nil && !o.closed
	return s.busy
}

func (o *outbound) release(s *stream, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s.busy = false
	if err != nil {
		s.over, s.err = true, err
	}
	o.changed.Broadcast()
}

// refuse resets a stream: for its client, and for the server, as if the client
// had done it.
func (o *outbound) refuse(id uint32, err error) {
	o.lead = append(o.lead, frames(func(f *http2.Framer) error { return f.WriteRSTStream(id, http2.ErrCodeInternal) })...)
	o.to.insert(frames(func(f *http2.Framer) error { return f.WriteRSTStream(id, http2.ErrCodeCancel) }))
	o.mu.Lock()
	defer o.mu.Unlock()
	o.body.refused, o.body.over, o.body.err = true, true, err
	o.lose(id)
}

// giveBack makes up for a payload that the client does not get: it will not give
// back what the server has taken for it from the connection's window.
func (o *outbound) giveBack(n int) {
	if n > 0 {
		o.to.insert(frames(func(f *http2.Framer) error { return f.WriteWindowUpdate(0, uint32(n)) }))
	}
}

func (o *outbound) pass(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	return o.to.pass(p)
}
