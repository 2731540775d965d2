package fileserver

import (
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
)

// ahead returns how many bytes behind a part of a file may be sent with it, at most most
// bytes. Caddy hands on a body in parts of 64 KiB, each with a write deadline of its own.
// A part waits only for its own bytes, so the deadlines mean what they mean without us.
// What follows goes along if the socket takes it at once. That saves the work for the
// next parts: over HTTP/1.1, 5 % of all work.
//
// No more is sent than the handler must send. The handler has said how much that is by
// the Content-Length and by what it copies: file is what it has promised. Without Caddy's
// idle timeouts above, nothing is sent ahead, because then the outermost limit of a
// reader is the handler's own.
func (b *body) ahead(file filerange.Range, most int64) int64 {
	if !b.inParts || !b.header.lengthKnown || !takesMore() {
		return 0
	}
	return max(min(file.Beyond, most), 0)
}

// takesMore reports whether Caddy's idle timeouts, which hand on a body in parts, go on
// correctly when more than a part was taken of the body. Caddy doesn't promise that, so
// it is tried.
var takesMore = sync.OnceValue(func() (ok bool) {
	// Another version of Caddy may ask for what is not there.
	defer func() { ok = recover() == nil && ok }()
	const length, part = 10, 4
	idle := newIdleTimeouts(&greedy{most: part + 2})
	idle.MaxChunk = part
	body := &io.LimitedReader{N: length}
	n, err := idle.ReadFrom(body)
	return n == length && err == nil && body.N == 0
})

// A greedy takes more of a body than the reader that it gets allows.
type greedy struct {
	http.ResponseWriter
	most int64
}

func (g *greedy) ReadFrom(r io.Reader) (int64, error) {
	part, ok := r.(*io.LimitedReader)
	if !ok {
		return 0, io.ErrNoProgress
	}
	body, ok := part.R.(*io.LimitedReader)
	if !ok {
		return 0, io.ErrNoProgress
	}
	n := min(g.most, body.N)
	body.N -= n
	return n, nil
}

func (*greedy) SetWriteDeadline(time.Time) error { return nil }
