package filerange

import (
	"errors"
	"io"
	"sync"
)

// copyLen is how many bytes are copied at once, as in io.Copy.
const copyLen = 32 << 10

var copyBuffers = sync.Pool{New: func() any { return new([copyLen]byte) }}

// CopyPooled is io.Copy with a buffer from a pool. It ignores a WriteTo of r, which may
// bring a buffer of its own. A ReadFrom of w may do so too, and the caller must hide it.
// After an error the buffer does not go back to the pool, because a write that was given
// up may still read it.
func CopyPooled(w io.Writer, r io.Reader) (int64, error) {
	buf := copyBuffers.Get().(*[copyLen]byte)
	n, err := io.CopyBuffer(w, struct{ io.Reader }{r}, buf[:])
	if err == nil {
		copyBuffers.Put(buf)
	}
	return n, err
}

// CopyTo writes a segment to w, and nothing ahead. If the file ends too early, the error
// is io.ErrUnexpectedEOF.
func (s Segment) CopyTo(w io.Writer) (copied int64, err error) {
	buf := copyBuffers.Get().(*[copyLen]byte)
	for copied < s.Len {
		p := buf[:min(copyLen, s.Len-copied)]
		if _, err := s.File.ReadAt(p, s.Offset+copied); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return copied, err
		}
		if _, err := w.Write(p); err != nil {
			return copied, err
		}
		copied += int64(len(p))
	}
	copyBuffers.Put(buf)
	return copied, nil
}
