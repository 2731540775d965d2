package fileserver

import "sync/atomic"

// To send bodies by sendfile(2), this package builds on what net/http,
// golang.org/x/net/http2 and Caddy do but don't promise. SelfTest tries it at the
// start. Over HTTP/1.1 it may show in service only that it is not so: from then on bodies
// are copied, in the whole process.

// A trust says whether bodies over a protocol may go out by sendfile(2).
type trust struct {
	protocol string
	lost     atomic.Bool
}

var (
	http1Trust = &trust{protocol: "HTTP/1.1"}
	http2Trust = &trust{protocol: "HTTP/2"}
)

// distrust is called when something else than the placeholder of an announced
// file has come, or nothing, though no write has failed: so it is no client's doing.
func (c *conn) distrust() {
	if t := http1Trust; t.lost.CompareAndSwap(false, true) && c.server.Distrusted != nil {
		c.server.Distrusted(t.protocol)
	}
}
