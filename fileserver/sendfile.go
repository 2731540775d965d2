package fileserver

import (
	"errors"
	"io"

	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// sendFile sends part of a file after a lead, see [ktls.Conn.SendFile]. If the
// kernel refuses, the n bytes are copied; copied tells how many of those sent.
func (c *Conn) sendFile(lead []byte, f ktls.File, offset, n, ahead int64) (sent, copied int64, err error) {
	sent, err = c.tls.SendFile(lead, f, offset, n, ahead)
	c.server.countSent(sent)
	if errors.Is(err, ktls.ErrNoSendfile) {
		if copied, err = c.copyFile(f, offset+sent, n-sent); err != nil {
			c.abort() // no orderly end: a part must not look like the whole
		}
	}
	return sent + copied, copied, err
}

// copyFile sends part of a file through user space.
func (c *Conn) copyFile(f ktls.File, offset, n int64) (sent int64, err error) {
	b := copyBuffers.Get().(*[copyBufferLen]byte)
	defer copyBuffers.Put(b)
	for sent < n {
		buf := b[:min(int64(len(b)), n-sent)]
		if _, err := f.ReadAt(buf, offset+sent); err != nil {
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
