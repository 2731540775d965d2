// Package filerange finds out which part of a regular file an io.Reader has yet to give,
// so that sendfile(2) can send that part instead of the process reading it. It also
// copies what can't be sent.
package filerange

import (
	"io"
	"io/fs"
	"math"
	"os"
	"reflect"
	"syscall"
)

// A File is an *os.File, or what (*os.File).WriteTo makes of one to hide its
// WriteTo method.
type File interface {
	io.ReadSeeker
	io.ReaderAt
	syscall.Conn
	Stat() (fs.FileInfo, error)
}

// A Range is what a reader has yet to give of a regular file.
type Range struct {
	File   File
	Size   int64 // the file's length
	Offset int64 // the file's current offset
	Len    int64 // bytes that the reader would give
	// Beyond is how many more bytes the reader would give without its outermost limit.
	// When somebody hands on a reader piece by piece, that is what comes with the next
	// pieces.
	Beyond int64

	reader io.Reader
}

// Of returns what r has yet to give, if r is a regular file or a chain of
// *io.LimitedReader that ends in one. It does not look through a type that embeds a file,
// because that type may read something else.
func Of(r io.Reader) (Range, bool) {
	outer, inner := int64(math.MaxInt64), int64(math.MaxInt64)
	reader := r
	for depth := 0; ; depth++ {
		limited, ok := r.(*io.LimitedReader)
		if !ok {
			break
		}
		if depth == 0 {
			outer = max(limited.N, 0)
		} else {
			inner = min(inner, max(limited.N, 0))
		}
		r = limited.R
	}
	f, ok := r.(File)
	if !ok || !isOSFile(r) {
		return Range{}, false
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return Range{}, false
	}
	offset, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return Range{}, false
	}
	inner = min(inner, max(info.Size()-offset, 0))
	n := min(outer, inner)
	return Range{File: f, Size: info.Size(), Offset: offset, Len: n, Beyond: inner - n, reader: reader}, true
}

// Rest returns what is left of a range of which the reader has given n bytes.
func (r Range) Rest(n int64) Range {
	r.Offset += n
	r.Len -= n
	return r
}

// Segment returns the bytes that the reader would give, with ahead bytes beyond them that
// may be sent too.
func (r Range) Segment(ahead int64) Segment {
	return Segment{File: r.File, Offset: r.Offset, Len: r.Len, Ahead: ahead}
}

// Consume advances the file's offset and every limit of the reader by n bytes, as if they
// had been read.
func (r Range) Consume(n int64) error {
	reader := r.reader
	for {
		limited, ok := reader.(*io.LimitedReader)
		if !ok {
			break
		}
		limited.N -= n
		reader = limited.R
	}
	_, err := r.File.Seek(r.Offset+n, io.SeekStart)
	return err
}

// isOSFile reports whether r is one of the two types that read the file itself.
func isOSFile(r io.Reader) bool {
	if _, ok := r.(*os.File); ok {
		return true
	}
	t := reflect.TypeOf(r)
	return t.PkgPath() == "os" && t.Name() == "fileWithoutWriteTo"
}

// A Segment is a part of a file that is to be sent.
type Segment struct {
	File   File
	Offset int64 // where the segment begins
	Len    int64 // how many bytes must be sent
	// Ahead is how many bytes behind these may be sent too, as far as that requires no
	// waiting.
	Ahead int64
}

// Rest returns what is left of a segment after n bytes were sent.
func (s Segment) Rest(n int64) Segment {
	s.Offset += n
	if s.Len -= n; s.Len < 0 {
		s.Ahead += s.Len
		s.Len = 0
	}
	return s
}

// Sent says how many bytes of a file were sent, and how.
type Sent struct {
	Sendfile int64 // by sendfile(2)
	Copied   int64 // through user space
}

// Total returns the sum of both.
func (s Sent) Total() int64 { return s.Sendfile + s.Copied }

// Add returns the sums of both kinds.
func (s Sent) Add(t Sent) Sent { return Sent{s.Sendfile + t.Sendfile, s.Copied + t.Copied} }

var _ File = (*os.File)(nil)
