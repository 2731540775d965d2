package http2body

import (
	"errors"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
)

const (
	// FilePayload is the length of the payload of a whole frame from a file, in bytes. It
	// is a multiple of what the cipher takes at once, see Beginning.
	FilePayload = maxPayload &^ (cipherBlock - 1)
	// cipherBlock is the length of a block of AES, in bytes.
	cipherBlock = 16
)

// Beginning returns how many bytes of a file's part from offset on the server should send
// before SendFile: at least n. In each record, behind the header of a frame, the pages of
// the file then begin at a multiple of a cipher's block. A block that lies in two pages
// takes more work: 4 % of all work with Linux 6.12.
func Beginning(offset, n int64) int64 {
	return n + (frameHeaderLen-(offset+n)%cipherBlock+cipherBlock)%cipherBlock
}

// ErrShort says that a file turned out to be too short, before a frame was sent.
var ErrShort = errors.New("http2body: the file has become shorter")

// Load waits until the beginning of a segment of a file can be read without waiting for a
// disk.
func (s *Stream) Load(part filerange.Segment) error {
	if s.pages.Ready(part) {
		return nil
	}
	return s.pages.Load(part, s.waitFor)
}

// SendFile sends a segment of a file. The caller must just have checked that the file is
// long enough. After ErrShort the stream can only be reset. After an error of the wire
// the connection is of no more use.
func (s *Stream) SendFile(part filerange.Segment) (sent filerange.Sent, err error) {
	if err := s.Flush(); err != nil {
		return sent, err
	}
	defer s.cork(false)
	begun := time.Now()
	checked := begun // the caller has just checked
	for part.Len+part.Ahead > 0 {
		if part.Len == 0 && time.Since(begun) > aheadTime {
			break
		}
		// The whole connection would wait for a disk with the stream that has the turn.
		if !s.pages.Ready(part) {
			if part.Len == 0 {
				break
			}
			s.cork(false)
			if err := s.pages.Load(part, s.waitFor); err != nil {
				return sent, err
			}
		}
		k, err := s.takeTurn(part.Len, min(part.Len+part.Ahead, s.pages.Len(part), turnFrames*FilePayload))
		if err != nil {
			return sent, err
		}
		if k == 0 {
			break
		}
		if now := time.Now(); s.waited || now.Sub(checked) > checkTime {
			s.waited = false
			if checked = now; shorter(part.File, part.Offset+k) {
				s.endTurn(k)
				return sent, ErrShort
			}
		}
		s.cork(true)
		now, err := s.sendFrames(filerange.Segment{File: part.File, Offset: part.Offset, Len: k})
		sent = sent.Add(now)
		if err != nil {
			return sent, s.conn.fail(err)
		}
		part = part.Rest(k)
		s.endTurn(0)
	}
	return sent, nil
}

const (
	// aheadTime limits how long SendFile sends ahead. The caller has set a deadline only
	// for the bytes that must be sent.
	aheadTime = 50 * time.Millisecond
	// checkTime is how long a file's length is trusted, if SendFile does not wait.
	checkTime = 50 * time.Millisecond
)

// sendFrames sends a segment of a file in frames: equal ones, and a shorter one at the
// end.
func (s *Stream) sendFrames(part filerange.Segment) (sent filerange.Sent, err error) {
	for err == nil && part.Len > 0 {
		payload := min(part.Len, FilePayload)
		equal := part
		equal.Len = part.Len / payload * payload
		var now filerange.Sent
		now, err = s.conn.wire.SendFrames(s.header(make([]byte, 0, frameHeaderLen), payload), equal, payload)
		sent = sent.Add(now)
		part = part.Rest(equal.Len)
	}
	return sent, err
}

// shorter reports whether a file has lost some of its first n bytes.
func shorter(f filerange.File, n int64) bool {
	info, err := f.Stat()
	return err != nil || info.Size() < n
}
