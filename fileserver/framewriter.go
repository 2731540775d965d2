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

// sendFile copies if the connection has yet to be offloaded, or can't be.
func (w frameWriter) sendFile(lead []byte, f ktls.File, offset int64, n int) error {
	if !w.offloaded() {
		return w.copyFile(lead, f, offset, n)
	}
	sent, err := w.tls.SendFile(lead, f, offset, int64(n), 0)
	if w.server.Sent != nil {
		w.server.Sent(sent)
	}
	return err
}

// copyFile does the same through user space. lead and file fit into one buffer.
func (w frameWriter) copyFile(lead []byte, f ktls.File, offset int64, n int) error {
	b := buffers.Get().(*[]byte)
	defer buffers.Put(b)
	buf := append((*b)[:0], lead...)[:len(lead)+n]
	if _, err := f.ReadAt(buf[len(lead):], offset); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	return w.pass(buf)
}

func (w frameWriter) cork(on bool) { w.tls.Cork(on) }
