package fileserver

import (
	"errors"
	"io"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// sendFile sends a part of a file after a lead, see [ktls.Conn.SendFile]. If the kernel
// refuses, the part is copied, and nothing ahead.
func (c *Conn) sendFile(lead []byte, part filerange.Segment) (sent filerange.Sent, err error) {
	sent.Sendfile, err = c.tls.SendFile(lead, part)
	c.server.countSent(sent.Sendfile)
	if errors.Is(err, ktls.ErrNoSendfile) {
		if sent.Copied, err = c.copyFile(part.Rest(sent.Sendfile)); err != nil {
			c.abort() // no orderly end: a part must not look like the whole
		}
	}
	return sent, err
}

// copyFile sends a part of a file through user space.
func (c *Conn) copyFile(part filerange.Segment) (sent int64, err error) {
	b := copyBuffers.Get().(*[copyBufferLen]byte)
	defer copyBuffers.Put(b)
	for sent < part.Len {
		buf := b[:min(int64(len(b)), part.Len-sent)]
		if _, err := part.File.ReadAt(buf, part.Offset+sent); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return sent, err
		}
		if _, err := c.tls.Write(buf); err != nil {
			return sent, err
		}
		sent += int64(len(buf))
	}
	return sent, nil
}
