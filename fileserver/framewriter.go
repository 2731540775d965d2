package fileserver

import (
	"errors"
	"io"

	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// A frameWriter is the frameSender of a connection.
type frameWriter struct{ *Conn }

func (w frameWriter) pass(p []byte) error {
	_, err := w.tls.Write(p)
	return err
}

func (w frameWriter) offloaded() bool { return w.tls.Reason() == ktls.Offloaded }

// sendFile copies if the connection has yet to be offloaded, or can't be, and what
// the kernel refuses. A lead to be copied is a frame's header only, as other frames
// wait for connections that are offloaded.
func (w frameWriter) sendFile(lead []byte, f ktls.File, offset int64, n int) (sentBy, error) {
	if !w.offloaded() {
		_, err := w.copyFile(lead, f, offset, int64(n))
		return byCopy, err
	}
	_, copied, err := w.Conn.sendFile(lead, f, offset, int64(n), 0)
	if copied > 0 {
		return byCopyRefused, err
	}
	return byKernel, err
}

// sendFile sends part of a file after a lead, see [ktls.Conn.SendFile]. If the
// kernel refuses, the n bytes are copied; copied tells how many of those sent.
func (c *Conn) sendFile(lead []byte, f ktls.File, offset, n, ahead int64) (sent, copied int64, err error) {
	sent, err = c.tls.SendFile(lead, f, offset, n, ahead)
	if c.server.Sent != nil {
		c.server.Sent(sent)
	}
	if errors.Is(err, ktls.ErrNoSendfile) {
		if copied, err = c.copyFile(nil, f, offset+sent, n-sent); err != nil {
			c.abort() // no orderly end: a part must not look like the whole
		}
	}
	return sent + copied, copied, err
}

// copyFile sends part of a file through user space, after a lead that is shorter
// than its buffer.
func (c *Conn) copyFile(lead []byte, f ktls.File, offset, n int64) (sent int64, err error) {
	b := copyBuffers.Get().(*[copyBufferLen]byte)
	defer copyBuffers.Put(b)
	for buf := append(b[:0], lead...); sent < n; buf = b[:0] {
		begin := len(buf)
		buf = buf[:min(int64(len(b)), int64(begin)+n-sent)]
		if _, err := f.ReadAt(buf[begin:], offset+sent); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return sent, err
		}
		if _, err := c.tls.Write(buf); err != nil {
			return sent, err
		}
		sent += int64(len(buf) - begin)
	}
	return sent, nil
}
