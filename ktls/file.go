package ktls

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"reflect"
	"sync"
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

// A FileRange is what a reader has yet to give of a regular file.
type FileRange struct {
	File   File
	Size   int64 // the file's length
	Offset int64 // where the file stands
	Len    int64 // bytes that the reader would give
	// Beyond is how many bytes more it would give without its outermost
	// limit: when somebody hands on a reader piece by piece, that is what
	// comes with the next pieces.
	Beyond int64

	reader io.Reader
}

// FileRangeOf returns what r has yet to give, if it is a regular file or a chain
// of *io.LimitedReader that ends in one. A type that embeds a file is not looked
// through: it may read something else.
func FileRangeOf(r io.Reader) (FileRange, bool) {
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
		return FileRange{}, false
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return FileRange{}, false
	}
	offset, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return FileRange{}, false
	}
	inner = min(inner, max(info.Size()-offset, 0))
	n := min(outer, inner)
	return FileRange{File: f, Size: info.Size(), Offset: offset, Len: n, Beyond: inner - n, reader: reader}, true
}

// Consume moves the file's offset and every limit of the reader by n bytes, as
// reading them would have done.
func (r FileRange) Consume(n int64) error {
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

// maxSendFile bounds one sendfile(2), so that control records get their turn.
const maxSendFile = 1 << 20

// SendFile sends header and then n bytes of f from offset on, and beyond these
// up to ahead bytes more that follow, as far as that takes no waiting. It returns
// how many bytes of f it sent and does not move the file's own offset. The
// connection must be offloaded. Header and file share a record if they fit one.
//
// Bytes sent ahead may be held in an unfinished record, so what follows them in
// the file has to be sent next. After ErrNoSendfile the rest may be sent by Write.
// A file that ends before n bytes gives io.ErrUnexpectedEOF; after that and any
// other error the connection is of no more use but to be closed.
func (c *Conn) SendFile(header []byte, f File, offset, n, ahead int64) (sent int64, err error) {
	c.lock()
	defer c.unlock()
	if c.Reason() != Offloaded {
		return 0, errNotOffloaded
	}
	oneRecord := int64(len(header))+n+ahead <= maxPayload
	if !oneRecord {
		// Records are given to TCP one by one. Without the cork each begins
		// a segment, also the few bytes behind a full one.
		c.kernel.cork(true)
		defer c.kernel.cork(false)
	}
	if len(header) > 0 {
		// A longer file has records of its own: made of whole pages they
		// take the kernel less than if each began in the middle of one.
		if _, err := c.send(header, oneRecord && n > 0); err != nil {
			return 0, err
		}
	} else if err := c.flush(); err != nil {
		return 0, c.fail(err)
	}
	for sent < n {
		if c.controlsDue() {
			// Data that don't promise more close the record that may be
			// open, and flush sends what waits.
			m, err := c.copyGap(f, offset+sent, min(n-sent, controlGap))
			sent += m
			if err != nil {
				return sent, err
			}
			if err := c.flush(); err != nil {
				return sent, c.fail(err) // a part must not look like the whole
			}
			continue
		}
		want := min(n+ahead-sent, maxSendFile)
		m, err := c.kernel.sendFile(f, offset+sent, want, c)
		if errors.Is(err, ErrNoSendfile) {
			return sent, err
		}
		sent += m
		c.open = m < want
		switch {
		case err != nil:
			return sent, c.fail(err)
		case m == 0:
			return sent, c.fail(io.ErrUnexpectedEOF)
		}
	}
	return sent, nil
}

// SendFrames sends count parts of f, of n bytes each, one behind the other from offset
// on, and header before each. It returns how many bytes of f it sent. The connection
// must be offloaded. A header and its part share a record if they fit one.
//
// After ErrNoSendfile a header was sent for which the rest of its part may be sent by
// Write. A file that ends too early gives io.ErrUnexpectedEOF; after that and any other
// error the connection is of no more use but to be closed.
func (c *Conn) SendFrames(header []byte, f File, offset, n int64, count int) (sent int64, err error) {
	c.lock()
	defer c.unlock()
	if c.Reason() != Offloaded {
		return 0, errNotOffloaded
	}
	if err := c.flush(); err != nil {
		return 0, c.fail(err)
	}
	sent, err = c.kernel.sendFrames(header, f, offset, n, count)
	c.open = sent < n*int64(count)
	switch {
	case errors.Is(err, ErrNoSendfile):
		return sent, err
	case err == nil && c.open:
		err = io.ErrUnexpectedEOF
	}
	return sent, c.fail(err)
}

// Cork has TCP hold back what does not fill a segment, until it is told otherwise or
// a call that sends has to wait for room. It is for who sends much by many calls. See
// TCP_CORK in tcp(7).
func (c *Conn) Cork(on bool) {
	c.lock()
	defer c.unlock()
	if c.Reason() == Offloaded {
		c.kernel.cork(on)
	}
}

// ErrNoSendfile says that the kernel refuses to send a file by sendfile(2): the file
// system can't, or a sandbox forbids it. It matches errors.ErrUnsupported.
var ErrNoSendfile = fmt.Errorf("ktls: the kernel refuses to send the file: %w", errors.ErrUnsupported)

var errNotOffloaded = errors.New("ktls: connection is not offloaded")

// controlGap is how much of a file is copied to close an open record.
const controlGap = 512

// copyGap sends n bytes of f through user space. c.out is held.
func (c *Conn) copyGap(f File, offset, n int64) (int64, error) {
	buf := make([]byte, n)
	if _, err := f.ReadAt(buf, offset); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, c.fail(err)
	}
	m, err := c.kernel.send(buf, false)
	c.open = false
	return int64(m), c.fail(err)
}

// proofLen is how much of a file ReadFrom writes through crypto/tls first, to
// have a record that proves the sequence number.
const proofLen = 512

// ReadFrom sends what r has to give: a regular file (see [FileRangeOf]) by
// sendfile(2) if the connection can be offloaded, which it asks for, anything
// else by copying. It implements io.ReaderFrom, by which io.Copy and
// http.ServeFile find it.
func (c *Conn) ReadFrom(r io.Reader) (total int64, err error) {
	if err := c.Handshake(); err != nil {
		return 0, err
	}
	if file, ok := FileRangeOf(r); ok && file.Len > proofLen {
		if c.Offload(); c.Reason() == NotNeeded {
			total, err = c.writeProof(r)
			if err != nil || total < proofLen {
				return total, err // it has become shorter
			}
			file.Offset += total
			file.Len -= total
		}
		if c.Reason() == Offloaded {
			sent, err := c.SendFile(nil, file.File, file.Offset, file.Len, 0)
			total += sent
			if errors.Is(err, ErrNoSendfile) {
				err = nil // it is copied below
			}
			if err := errors.Join(err, file.Consume(sent)); err != nil {
				return total, err
			}
		}
	}
	// What the file has got meanwhile, or everything.
	rest, err := copyPooled(writerOnly{c}, r)
	return total + rest, err
}

// writeProof writes the first proofLen bytes of r, fewer if there are no more.
func (c *Conn) writeProof(r io.Reader) (int64, error) {
	return io.Copy(writerOnly{c}, io.LimitReader(r, proofLen))
}

// copyBuffers are as net/http has them, and tls.Conn gets the same pieces.
var copyBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// copyPooled is io.Copy with a buffer that is used again.
func copyPooled(w io.Writer, r io.Reader) (int64, error) {
	buf := copyBuffers.Get().(*[32 << 10]byte)
	defer copyBuffers.Put(buf)
	if f, ok := r.(*os.File); ok {
		r = readerOnly{f} // its WriteTo allocates a buffer
	}
	return io.CopyBuffer(w, r, buf[:])
}

// writerOnly hides ReadFrom from io.Copy, readerOnly WriteTo.
type (
	writerOnly struct{ io.Writer }
	readerOnly struct{ io.Reader }
)

var (
	_ File          = (*os.File)(nil)
	_ io.ReaderFrom = (*Conn)(nil)
)
