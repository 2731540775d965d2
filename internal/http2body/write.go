package http2body

import (
	"slices"
	"sync"
)

// maxHeld is how many bytes Write keeps for the next frame, as the server's own buffer
// does.
const maxHeld = 4 << 10

// Write sends p in whole frames, as far as they can be filled. A short rest is kept for
// the next call of Write, Flush or SendFile, unless p is the end of the body. It returns
// how many bytes of p were sent or kept.
func (s *Stream) Write(p []byte, end bool) (n int, err error) {
	for {
		total := len(s.held) + len(p) - n
		if total == 0 || total <= maxHeld && !end {
			s.held = append(s.held, p[n:]...)
			return len(p), nil
		}
		if rest := total % maxPayload; !end && rest <= maxHeld && rest < total {
			total -= rest
		}
		k, err := s.takeTurn(int64(total), int64(total))
		if err != nil {
			return n, err
		}
		held := min(len(s.held), int(k))
		// Frames that lie in one piece, in whole pages, take the kernel less work than
		// frames whose headers are elsewhere. That is worth the copy.
		buf := turnBuffers.Get().(*[turnFrames * wholeFrame]byte)
		err = s.conn.pass(s.frames(buf[:0], s.held[:held], p[n:][:int(k)-held]))
		turnBuffers.Put(buf)
		if err != nil {
			return n, s.conn.fail(err)
		}
		s.endTurn(0)
		s.held = slices.Delete(s.held, 0, held)
		n += int(k) - held
	}
}

var turnBuffers = sync.Pool{New: func() any { return new([turnFrames * wholeFrame]byte) }}

// frames appends to b the frames of a payload that is in two parts.
func (s *Stream) frames(b, first, second []byte) []byte {
	for len(first)+len(second) > 0 {
		n := min(len(first)+len(second), maxPayload)
		m := min(n, len(first))
		b = s.header(b, int64(n))
		b = append(append(b, first[:m]...), second[:n-m]...)
		first, second = first[m:], second[n-m:]
	}
	return b
}

// Flush sends what Write has kept.
func (s *Stream) Flush() error {
	if len(s.held) == 0 {
		return nil
	}
	_, err := s.Write(nil, true)
	return err
}
