package fileserver

import (
	"errors"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// A wire is the http2body.Wire of a connection.
type wire struct{ *conn }

func (w wire) Read(p []byte) (int, error)        { return w.tls.Read(p) }
func (w wire) Write(p []byte) (int, error)       { return w.tls.Write(p) }
func (w wire) SetReadDeadline(t time.Time) error { return w.tls.SetReadDeadline(t) }
func (w wire) Cork(on bool)                      { w.tls.Cork(on) }
func (w wire) Abort()                            { _ = w.tls.NetConn().Close() }

// SendFrames implements http2body.Wire. If the kernel refuses, the rest is copied.
func (w wire) SendFrames(header []byte, part filerange.Segment, payload int64) (sent filerange.Sent, err error) {
	sent.Sendfile, err = w.tls.SendFrames(header, part, payload)
	w.listener.server.countSent(sent.Sendfile)
	if !errors.Is(err, ktls.ErrNoSendfile) {
		return sent, err
	}
	// The last header is out, so the rest of its payload comes first.
	for rest := part.Rest(sent.Sendfile); ; {
		frame := rest
		frame.Len -= (rest.Len - 1) / payload * payload
		n, err := frame.CopyTo(w.tls)
		sent.Copied += n
		if rest = rest.Rest(n); err != nil || rest.Len == 0 {
			return sent, err
		}
		if _, err := w.tls.Write(header); err != nil {
			return sent, err
		}
	}
}
