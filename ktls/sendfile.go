package ktls

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/internal/pagecache"
)

// maxSendFile limits one sendfile(2), in bytes, so that control records get their turn.
const maxSendFile = 1 << 20

// firstRecords are the lengths, in bytes, of the first records of a file on a connection
// that has sent no file before, or none for idleTime. A client can use nothing of a record
// that it doesn't have whole, and after a pause TCP sends about 14 KiB and then waits for
// an acknowledgment. So a first record of 16 KiB comes a round trip late, or half a second
// at 256 kbit/s. Together they are a page, so that the records that follow begin with one.
var firstRecords = [...]int64{512, 3584}

// idleTime is after what pause a file begins with firstRecords again. After its
// retransmission timeout, which is at least 200 ms, TCP begins slowly again
// (tcp_slow_start_after_idle in tcp(7)).
const idleTime = 200 * time.Millisecond

// SendFile sends header and then a segment of a file. It returns how many bytes of the
// file it sent, including those sent ahead. It does not move the file's own offset. The
// connection must be offloaded. Header and file share a record if they fit into one.
// SendFile is for package fileserver. Other users have ReadFrom.
//
// Bytes sent ahead may be held in an unfinished record, so what follows them in the file
// must be sent next. After ErrNoSendfile the rest may be sent by Write. If the file ends
// before the segment does, the error is io.ErrUnexpectedEOF. After that, and after any
// other error, the connection can only be closed.
func (c *Conn) SendFile(header []byte, part filerange.Segment) (sent int64, err error) {
	c.lock()
	defer c.unlock()
	if c.State() != Offloaded {
		return 0, errNotOffloaded
	}
	oneRecord := int64(len(header))+part.Len+part.Ahead <= maxPayload
	if !oneRecord {
		// TCP gets the records one by one. Without the cork each of them begins a
		// segment, even the few bytes behind a full one.
		c.kernel.cork(true)
		defer c.kernel.cork(false)
	}
	if len(header) > 0 {
		// A longer file has records of its own. Records made of whole pages take the
		// kernel less work than records that begin in the middle of a page.
		if _, err := c.send(header, oneRecord && part.Len > 0); err != nil {
			return 0, err
		}
	} else if err := c.flush(); err != nil {
		return 0, c.fail(err)
	}
	var first []int64
	if !oneRecord && time.Since(c.out.fileSent) > idleTime {
		first = firstRecords[:]
	}
	defer func() { c.out.fileSent = time.Now() }()
	var pages pagecache.Window
	for part.Len > 0 {
		if c.controlsDue() {
			// Data that don't promise more close the record that may be open. Then flush
			// sends what waits.
			m, err := c.copyGap(part)
			sent += m
			part = part.Rest(m)
			if err != nil {
				return sent, err
			}
			if err := c.flush(); err != nil {
				return sent, c.fail(err) // a part must not look like the whole
			}
			continue
		}
		// If sendfile(2) waited for the disk, it would have a place of the limiter meanwhile.
		if !pages.Ready(part) {
			// The client gets what there is before.
			c.kernel.cork(false)
			if err := pages.Load(part, c.wait); err != nil {
				return sent, c.fail(err)
			}
			c.kernel.cork(!oneRecord)
		}
		want := min(part.Len+part.Ahead, pages.Len(part), maxSendFile)
		if len(first) > 0 {
			want, first = min(want, first[0]), first[1:]
		}
		m, err := c.kernel.sendFile(filerange.Segment{File: part.File, Offset: part.Offset, Len: want}, c)
		if errors.Is(err, ErrNoSendfile) {
			return sent, err
		}
		sent += m
		part = part.Rest(m)
		c.out.open = m < want
		switch {
		case err != nil:
			return sent, c.fail(err)
		case m == 0:
			return sent, c.fail(io.ErrUnexpectedEOF)
		}
	}
	return sent, nil
}

// SendFrames sends a segment of a file, a multiple of payload bytes, with header before
// each payload. It returns how many bytes of the file it sent. It sends none ahead. The
// connection must be offloaded. A header and its payload share a record if they fit into
// one. SendFrames is for package fileserver.
//
// After ErrNoSendfile the last header was sent, and the rest of its payload may be sent
// by Write. If the file ends too early, the error is io.ErrUnexpectedEOF. After that, and
// after any other error, the connection can only be closed.
func (c *Conn) SendFrames(header []byte, part filerange.Segment, payload int64) (sent int64, err error) {
	c.lock()
	defer c.unlock()
	if c.State() != Offloaded {
		return 0, errNotOffloaded
	}
	if payload <= 0 || part.Len%payload != 0 {
		return 0, fmt.Errorf("ktls: %d bytes are not a multiple of the payload of %d bytes", part.Len, payload)
	}
	if err := c.flush(); err != nil {
		return 0, c.fail(err)
	}
	sent, err = c.kernel.sendFrames(header, part, payload)
	c.out.open = sent < part.Len
	switch {
	case errors.Is(err, ErrNoSendfile):
		return sent, err
	case err == nil && c.out.open:
		err = io.ErrUnexpectedEOF
	}
	return sent, c.fail(err)
}

// Cork makes TCP hold back what does not fill a segment, until Cork is called with false
// or a call that sends has to wait for room. It is for package fileserver, which sends a
// lot in many calls. See TCP_CORK in tcp(7).
func (c *Conn) Cork(on bool) {
	c.lock()
	defer c.unlock()
	if c.State() == Offloaded {
		c.kernel.cork(on)
	}
}

// ErrNoSendfile says that the kernel refuses to send a file by sendfile(2), because the
// file system can't or a sandbox forbids it. It matches errors.ErrUnsupported.
var ErrNoSendfile = fmt.Errorf("ktls: the kernel refuses to send the file: %w", errors.ErrUnsupported)

var errNotOffloaded = errors.New("ktls: connection is not offloaded")

// controlGap is how many bytes of a file are copied to close an open record.
const controlGap = 512

// copyGap sends up to controlGap bytes of a file through user space. Caller holds c.out.
func (c *Conn) copyGap(part filerange.Segment) (int64, error) {
	buf := make([]byte, min(part.Len, controlGap))
	if _, err := part.File.ReadAt(buf, part.Offset); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, c.fail(err)
	}
	m, err := c.kernel.send(buf, false)
	c.out.open = false
	return int64(m), c.fail(err)
}

// proofLen is how many bytes of a file ReadFrom writes through crypto/tls first. That
// gives a record that proves the sequence number.
const proofLen = 512

// ReadFrom sends what r has to give. A regular file, the rest of one, or a part of one in
// an *io.LimitedReader goes out by sendfile(2), if the connection can be offloaded.
// ReadFrom asks for the offload. Anything else is copied. ReadFrom implements
// io.ReaderFrom, by which io.Copy and http.ServeFile find it.
func (c *Conn) ReadFrom(r io.Reader) (total int64, err error) {
	if err := c.Handshake(); err != nil {
		return 0, err
	}
	if file, ok := filerange.Of(r); ok && file.Len > proofLen {
		if c.Offload(); c.State() == NotNeeded {
			total, err = c.writeProof(r)
			if err != nil || total < proofLen {
				return total, err // the file has become shorter
			}
			file = file.Rest(total)
		}
		if c.State() == Offloaded {
			sent, err := c.SendFile(nil, file.Segment(0))
			total += sent
			if errors.Is(err, ErrNoSendfile) {
				err = nil // the rest is copied below
			}
			if err := errors.Join(err, file.Consume(sent)); err != nil {
				return total, err
			}
		}
	}
	// Everything else: all that r has to give, or what has been added to the file
	// meanwhile.
	rest, err := filerange.CopyPooled(writerOnly{c}, r)
	return total + rest, err
}

// writeProof writes the first proofLen bytes of r, or fewer if there are no more.
func (c *Conn) writeProof(r io.Reader) (int64, error) {
	return io.Copy(writerOnly{c}, io.LimitReader(r, proofLen))
}

// writerOnly hides ReadFrom from io.Copy.
type writerOnly struct{ io.Writer }

var _ io.ReaderFrom = (*Conn)(nil)
