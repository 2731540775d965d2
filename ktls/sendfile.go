package ktls

import (
	"errors"
	"fmt"
	"io"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
)

// maxSendFile bounds one sendfile(2), so that control records get their turn.
const maxSendFile = 1 << 20

// SendFile sends header and then a segment of a file. It returns how many bytes of the
// file it sent, with those sent ahead, and does not move the file's own offset. The
// connection must be offloaded. Header and file share a record if they fit one. It is
// for package fileserver; other users have ReadFrom.
//
// Bytes sent ahead may be held in an unfinished record, so what follows them in
// the file has to be sent next. After ErrNoSendfile the rest may be sent by Write.
// A file that ends before the segment does gives io.ErrUnexpectedEOF; after that and any
// other error the connection is of no more use but to be closed.
func (c *Conn) SendFile(header []byte, part filerange.Segment) (sent int64, err error) {
	c.lock()
	defer c.unlock()
	if c.State() != Offloaded {
		return 0, errNotOffloaded
	}
	oneRecord := int64(len(header))+part.Len+part.Ahead <= maxPayload
	if !oneRecord {
		// Records are given to TCP one by one. Without the cork each begins
		// a segment, also the few bytes behind a full one.
		c.kernel.cork(true)
		defer c.kernel.cork(false)
	}
	if len(header) > 0 {
		// A longer file has records of its own: made of whole pages they
		// take the kernel less than if each began in the middle of one.
		if _, err := c.send(header, oneRecord && part.Len > 0); err != nil {
			return 0, err
		}
	} else if err := c.flush(); err != nil {
		return 0, c.fail(err)
	}
	for part.Len > 0 {
		if c.controlsDue() {
			// Data that don't promise more close the record that may be
			// open, and flush sends what waits.
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
		want := min(part.Len+part.Ahead, maxSendFile)
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
// each payload. It returns how many bytes of the file it sent; it sends none ahead. The
// connection must be offloaded. A header and its payload share a record if they fit one.
// It is for package fileserver.
//
// After ErrNoSendfile a header was sent for which the rest of its payload may be sent by
// Write. A file that ends too early gives io.ErrUnexpectedEOF; after that and any other
// error the connection is of no more use but to be closed.
func (c *Conn) SendFrames(header []byte, part filerange.Segment, payload int64) (sent int64, err error) {
	c.lock()
	defer c.unlock()
	if c.State() != Offloaded {
		return 0, errNotOffloaded
	}
	if payload <= 0 || part.Len%payload != 0 {
		return 0, fmt.Errorf("ktls: %d bytes are no frames of %d bytes each", part.Len, payload)
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

// Cork has TCP hold back what does not fill a segment, until it is told otherwise or
// a call that sends has to wait for room. It is for package fileserver, which sends
// much by many calls. See TCP_CORK in tcp(7).
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

// controlGap is how much of a file is copied to close an open record.
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

// proofLen is how much of a file ReadFrom writes through crypto/tls first, to
// have a record that proves the sequence number.
const proofLen = 512

// ReadFrom sends what r has to give. A regular file, the rest of one, or a part by
// *io.LimitedReader goes out by sendfile(2) if the connection can be offloaded, which
// ReadFrom asks for. Anything else is copied. It implements io.ReaderFrom, by which
// io.Copy and http.ServeFile find it.
func (c *Conn) ReadFrom(r io.Reader) (total int64, err error) {
	if err := c.Handshake(); err != nil {
		return 0, err
	}
	if file, ok := filerange.Of(r); ok && file.Len > proofLen {
		if c.Offload(); c.State() == NotNeeded {
			total, err = c.writeProof(r)
			if err != nil || total < proofLen {
				return total, err // it has become shorter
			}
			file.Offset += total
			file.Len -= total
		}
		if c.State() == Offloaded {
			sent, err := c.SendFile(nil, file.Segment(0))
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
	rest, err := filerange.CopyPooled(writerOnly{c}, r)
	return total + rest, err
}

// writeProof writes the first proofLen bytes of r, fewer if there are no more.
func (c *Conn) writeProof(r io.Reader) (int64, error) {
	return io.Copy(writerOnly{c}, io.LimitReader(r, proofLen))
}

// writerOnly hides ReadFrom from io.Copy.
type writerOnly struct{ io.Writer }

var _ io.ReaderFrom = (*Conn)(nil)
