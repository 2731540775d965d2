package fileserver

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"errors"
	"net"
	"net/http"
	"slices"
	"sync"

	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// A stream is what is known of an HTTP/2 stream of which the server has written
// DATA, or is to write a file.
type stream struct {
	seen int64 // bytes of the body in frames that have gone through
	over bool  // nobody waits for what is announced

	// refused: the stream was reset here. No DATA of it may follow.
	refused bool

	// What was announced: the bytes begin to end of the body are those of
	// the file from offset on.
	file       ktls.File // nil when send has returned
	offset     int64
	begin, end int64
	tag        int  // where the placeholder begins in the pattern
	busy       bool // the file is being sent
	whole      bool // all of it was sent
	byKernel   int64
	noSendfile bool // the kernel has refused to send the file
	err        error
}

const (
	patternLen = 64 << 10
	// leastTag is how many bytes make a placeholder unmistakable.
	leastTag = 16
)

// pattern is random, with the period patternLen. Placeholders of HTTP/2 are cut
// out of it: the server copies them, so that it takes the content to know them
// again. Each begins at another place.
var pattern = sync.OnceValue(func() []byte {
	p := make([]byte, patternLen)
	_, _ = rand.Read(p) // never fails
	return bytes.Repeat(p, 2)
})

// placeholder returns the n bytes, at most patternLen, that stand for the body
// from its byte at on.
func (s *stream) placeholder(at int64, n int) []byte {
	i := (s.tag + int(at%patternLen)) % patternLen
	return pattern()[i : i+n]
}

// isPlaceholder reports whether p stands for the body from its byte at on.
func (s *stream) isPlaceholder(p []byte, at int64) bool {
	for part := range slices.Chunk(p, patternLen) {
		if !bytes.Equal(part, s.placeholder(at, len(part))) {
			return false
		}
		at += int64(len(part))
	}
	return true
}

// announced reports whether some of the next n bytes of the body are announced,
// and whether all of them are.
func (s *stream) announced(n int64) (some, all bool) {
	return s.seen < s.end && s.seen+n > s.begin, s.seen >= s.begin && s.seen+n <= s.end
}

// A part is a part of a stream's body that comes from a file.
type part struct {
	stream uint32
	at     int64 // in the body
	file   ktls.File
	offset int64 // in the file
	n      int   // at most patternLen
}

// errRefused says that all went out, but copied since the kernel had refused.
var errRefused = errors.New("fileserver: the kernel refuses to send the file")

// errStreamUnknown says that a body's position is not what it should be.
var errStreamUnknown = errors.New("fileserver: the HTTP/2 stream is not known")

// send sends a part of a file: it announces it, writes the placeholder, and waits
// until the file is not needed any more. What the server takes may reach the
// connection later, or never, if the stream is reset. byKernel is how many of the
// bytes have not been copied.
func (o *outbound) send(p part, w http.ResponseWriter) (n int, byKernel int64, err error) {
	s, placeholder, err := o.announce(p)
	if err != nil {
		return 0, 0, err
	}
	n, err = w.Write(placeholder)
	if err == nil && !o.isThrough(s) {
		err = http.NewResponseController(w).Flush()
	}
	if err = o.settle(p.stream, s, err); err == nil || errors.Is(err, errRefused) {
		n = p.n // whatever the server has made of it
	}
	return n, s.byKernel, err
}

func (o *outbound) announce(p part) (*stream, []byte, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.stream(p.stream)
	switch {
	case o.closed || s.over:
		return nil, nil, cmp.Or(s.err, o.err, net.ErrClosed)
	case p.at < s.seen:
		return nil, nil, errStreamUnknown
	}
	o.tags += 1009 // prime, so that it takes long to come back
	s.file, s.offset, s.tag = p.file, p.offset, o.tags%patternLen
	s.begin, s.end, s.byKernel, s.noSendfile, s.whole = p.at, p.at+int64(p.n), 0, false, false
	o.sending = append(o.sending, s)
	return s, s.placeholder(p.at, p.n), nil
}

func (o *outbound) isThrough(s *stream) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return s.over || s.seen >= s.end
}

// settle waits until what is announced has gone through, or never will. err is
// why the placeholder could not be written.
func (o *outbound) settle(id uint32, s *stream, err error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for s.busy || err == nil && s.seen < s.end && !s.over && !o.closed {
		o.changed.Wait()
	}
	s.file = nil
	o.sending = slices.DeleteFunc(o.sending, func(other *stream) bool { return other == s })
	// The client may have reset the stream since, or left: the server says then that
	// it has left, or that all was written.
	if s.whole {
		if s.noSendfile {
			return errRefused
		}
		return nil
	}
	// The server may have some of the placeholder.
	s.over = true
	o.lose(id)
	return cmp.Or(s.err, o.err, err, net.ErrClosed)
}

// stream returns what is known of a stream. o.mu is held.
func (o *outbound) stream(id uint32) *stream {
	s := o.streams[id]
	if s == nil {
		if o.streams == nil {
			o.streams = make(map[uint32]*stream)
		}
		s = new(stream)
		o.streams[id] = s
	}
	return s
}

// reset is called when the client has reset a stream, before the server knows.
// After an error the connection is to be closed.
func (o *outbound) reset(id uint32) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if s := o.streams[id]; s != nil {
		s.over = true
		o.changed.Broadcast()
	}
	if o.lose(id); len(o.lost) > 10*maxLost {
		return errResets
	}
	return nil
}

// A lostStream is one that will not end, but of which frames may be under way.
type lostStream struct {
	id     uint32
	frames uint64 // that had begun when it was lost
}

const (
	// maxLost is how many streams are remembered that were lost; many times
	// as many if they had begun and the server writes nothing.
	maxLost = 1000
	// maxBuffered is how many frames the server may have under way: one, and
	// those in a buffer of 4 KiB, where each takes 9 bytes at least.
	maxBuffered = 1 + 4096/frameHeaderLen
)

var errResets = errors.New("fileserver: HTTP/2 streams are reset, and nothing else is written")

// lose remembers a stream until no frame of it can be under way any more. The
// server takes note of a reset before it reads the next frame: so when another
// stream is lost, no new frame of the first comes. o.mu is held.
func (o *outbound) lose(id uint32) {
	o.lost = append(o.lost, lostStream{id, o.frames})
	if len(o.lost) <= maxLost {
		return
	}
	lost := o.lost[:0]
	for i, l := range o.lost {
		s := o.streams[l.id]
		through := i+1 < len(o.lost) && o.frames-o.lost[i+1].frames > maxBuffered
		switch {
		case s == nil && i+1 < len(o.lost): // nothing has come of it
		case s != nil && s.file == nil && through:
			delete(o.streams, l.id)
		default:
			lost = append(lost, l)
		}
	}
	o.lost = lost
}

// close ends all sending. err says why, if not nil.
func (o *outbound) close(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.err = cmp.Or(o.err, err)
	o.changed.Broadcast()
}

// misplaced reports whether what a stream is to carry belongs to another stream
// or to another place: then streams are not what they seem. o.mu is held.
func (o *outbound) misplaced(payload []byte) bool {
	return len(payload) >= leastTag && slices.ContainsFunc(o.sending, func(s *stream) bool {
		return s.isPlaceholder(payload[:leastTag], max(s.seen, s.begin))
	})
}

// shorter reports whether a file has lost some of its first n bytes.
func shorter(f ktls.File, n int64) bool {
	info, err := f.Stat()
	return err != nil || info.Size() < n
}
