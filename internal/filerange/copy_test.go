package filerange

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A pieceWriter keeps what is written, and fails after the first pieces.
type pieceWriter struct {
	bytes.Buffer
	left    int // pieces that it takes
	longest int
}

var errFull = errors.New("full")

func (w *pieceWriter) ReadFrom(io.Reader) (int64, error) { panic("the buffer is Buffer's own") }

func (w *pieceWriter) Write(p []byte) (int, error) {
	if w.left--; w.left < 0 {
		return 0, errFull
	}
	w.longest = max(w.longest, len(p))
	return w.Buffer.Write(p)
}

// A file is read by our buffer, not by its WriteTo.
func TestCopyPooled(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789"), 10_000)
	for _, tt := range []struct {
		name   string
		pieces int
		want   int
		err    error
	}{
		{"whole", 100, len(content), nil},
		{"fails", 2, 2 * copyLen, errFull},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := &pieceWriter{left: tt.pieces}
			n, err := CopyPooled(struct{ io.Writer }{w}, testutil.OpenFile(t, content))
			if n != int64(tt.want) || !errors.Is(err, tt.err) || !bytes.Equal(w.Bytes(), content[:tt.want]) {
				t.Errorf("%d bytes, %v", n, err)
			}
			if w.longest != copyLen {
				t.Errorf("pieces of %d bytes", w.longest)
			}
		})
	}
}

// A segment is copied from where it begins, and what is ahead is not.
func TestCopyTo(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789"), 10_000)
	for _, tt := range []struct {
		name        string
		offset, len int64
		pieces      int
		want        int64
		err         error
	}{
		{"whole", 0, 100_000, 100, 100_000, nil},
		{"part", 33, 50_000, 100, 50_000, nil},
		{"nothing", 33, 0, 100, 0, nil},
		{"too short", 50_000, 50_001, 100, copyLen, io.ErrUnexpectedEOF},
		{"fails", 0, 100_000, 2, 2 * copyLen, errFull},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := &pieceWriter{left: tt.pieces}
			n, err := Segment{File: testutil.OpenFile(t, content), Offset: tt.offset, Len: tt.len, Ahead: 1000}.CopyTo(w)
			if n != tt.want || !errors.Is(err, tt.err) || !bytes.Equal(w.Bytes(), content[tt.offset:][:tt.want]) {
				t.Errorf("%d bytes, %v", n, err)
			}
		})
	}
}
