package fileserver

import (
	"cmp"
	"errors"
	"net"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// Over HTTP/1.1 a file goes out in the place of a placeholder. No byte of the
// placeholder itself may: under a Content-Length that promises a file it would look
// like one. So from the moment that the header is out, nothing but the announced
// piece of the placeholder may come, known by its address. Whatever else comes is
// not looked at but cuts the connection off.

// An announcement is a part of a file whose placeholder is to be written next.
type announcement struct {
	part filerange.Segment
	// first is how long the first piece of the placeholder is. If less of it
	// comes, net/http has copied some.
	first int64
	// due: the header is out.
	due bool
}

// maxPart bounds what is announced, and what may go ahead of it.
const maxPart = 1 << 20

// placeholder stands for file bytes. Nobody reads or writes it, so it takes no
// memory.
var placeholder [2 * maxPart]byte

// isPlaceholder reports whether p is any part of the placeholder: those that
// net/http cuts off share its end.
func isPlaceholder(p []byte) bool {
	return len(p) > 0 && &p[:cap(p)][cap(p)-1] == &placeholder[len(placeholder)-1]
}

// maxHeld bounds what is held back for the announced file.
const maxHeld = 64 << 10

var (
	errPlaceholder = errors.New("fileserver: not the placeholder of the announced file was written")
	errUnconsumed  = errors.New("fileserver: announced file did not reach the connection")
)

// announce says that the placeholder of a part of a file comes next, after what
// is left of the response's header. It may come in pieces: with the first the
// part goes out, and its length is known then.
func (c *conn) announce(a announcement) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.announcement, c.sent, c.unclaimed = a, filerange.Sent{}, 0
}

// expect says that the header is out.
func (c *conn) expect() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.announcement.due = c.announcement.part.File != nil
}

// rest returns how much of the placeholder is still to come.
func (c *conn) rest() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.unclaimed
}

// settle ends an announcement, and returns what has gone out. If the placeholder has not come, nothing may
// follow what the response's header has promised: the connection is closed. err is
// why the placeholder could not be written; if it could, it is somewhere else.
func (c *conn) settle(err error) (filerange.Sent, error) {
	sent, missing, err := c.conclude(err)
	if missing && err == nil {
		c.distrust()
		err = errUnconsumed
	}
	return sent, err
}

func (c *conn) conclude(err error) (sent filerange.Sent, missing bool, _ error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	err = cmp.Or(err, c.writeErr) // which something between may have hidden
	return c.sent, c.withdraw(), err
}

// abandon ends an announcement that a panic has left, if there is one.
func (c *conn) abandon() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.withdraw()
}

// withdraw cuts the connection off if the placeholder, or some of it, is missing.
// c.mu is held.
func (c *conn) withdraw() (missing bool) {
	missing = c.announcement.part.File != nil || c.unclaimed > 0
	if missing {
		c.abort()
	}
	return missing
}

// abort cuts the connection off, so that the client sees that the response is
// not whole. c.mu is held.
func (c *conn) abort() {
	c.announcement, c.unclaimed = announcement{}, 0
	c.writeErr = cmp.Or[error](c.writeErr, net.ErrClosed)
	_ = c.tls.NetConn().Close()
}

// writePlaceholder writes what is no placeholder, and the file for what is.
func (c *conn) writePlaceholder(p []byte) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.writeErr != nil: // what comes now is not looked at
		return 0, c.writeErr
	case isPlaceholder(p):
		return c.writeFile(int64(len(p)))
	case c.unclaimed > 0, c.announcement.due:
		c.abort()
		return 0, errPlaceholder
	case c.announcement.part.File == nil:
		n, c.writeErr = c.tls.Write(p)
		return n, c.writeErr
	case len(c.held)+len(p) <= maxHeld:
		c.held = append(c.held, p...)
		return len(p), nil
	}
	if _, c.writeErr = c.tls.Write(c.held); c.writeErr != nil {
		return 0, c.writeErr
	}
	c.held = c.held[:0]
	n, c.writeErr = c.tls.Write(p)
	return n, c.writeErr
}

// writeFile takes n bytes of a placeholder: the first send the announced part.
func (c *conn) writeFile(n int64) (int, error) {
	if a := c.announcement; a.due && n == a.first {
		var err error
		c.announcement = announcement{}
		c.sent, err = c.sendFile(c.held, a.part)
		c.held = c.held[:0]
		if err != nil {
			c.writeErr = err
			return int(min(c.sent.Total(), n)), err
		}
		c.unclaimed = c.sent.Total()
	}
	if n > c.unclaimed {
		c.abort()
		return 0, errPlaceholder
	}
	c.unclaimed -= n
	return int(n), nil
}

// sendFile sends a part of a file after a lead, see [ktls.Conn.SendFile]. If the kernel
// refuses, the part is copied, and nothing ahead.
func (c *conn) sendFile(lead []byte, part filerange.Segment) (sent filerange.Sent, err error) {
	sent.Sendfile, err = c.tls.SendFile(lead, part)
	c.server.countSent(sent.Sendfile)
	if errors.Is(err, ktls.ErrNoSendfile) {
		if sent.Copied, err = part.Rest(sent.Sendfile).CopyTo(c.tls); err != nil {
			c.abort() // no orderly end: a part must not look like the whole
		}
	}
	return sent, err
}
