package fileserver

import (
	"cmp"
	"errors"
	"net"
	"sync"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// Over HTTP/1.1 a file is sent in the place of a placeholder. No byte of the placeholder
// itself may go out: under a Content-Length that promises a file it would look like one.
// So once the header is out, only the announced piece of the placeholder may come, which
// is recognised by its address. Anything else is not looked at, but cuts the connection
// off.

// An http1Sender writes what net/http writes over HTTP/1.1. Where net/http writes the
// placeholder of a part of a file, it sends that part.
type http1Sender struct {
	tls    *ktls.Conn
	server *Server

	mu        sync.Mutex // also held while something is written
	announced announcement
	held      []byte         // written after the announcement, to go out with the file
	sent      filerange.Sent // what was sent of the part that was announced last
	unclaimed int64          // bytes of that part that have gone out before their placeholder
	err       error          // error of the write after which nothing may follow
}

// An announcement says for which part of a file a placeholder comes next. The zero value
// announces nothing.
type announcement struct {
	part filerange.Segment
	// first is the length of the first piece of the placeholder. If less of it comes,
	// net/http has copied some.
	first int64
	// headerOut: the header is out, and only the placeholder may come now.
	headerOut bool
}

// maxPart limits what is announced, and what may be sent ahead with it, in bytes.
const maxPart = 1 << 20

// placeholder stands for the bytes of a file. Nobody reads or writes it, so it takes no
// memory.
var placeholder [2 * maxPart]byte

// isPlaceholder reports whether p is a part of the placeholder. The parts that net/http
// cuts off share its end.
func isPlaceholder(p []byte) bool {
	return len(p) > 0 && &p[:cap(p)][cap(p)-1] == &placeholder[len(placeholder)-1]
}

// maxHeld limits what is held back for the announced file, in bytes.
const maxHeld = 64 << 10

var (
	errPlaceholder = errors.New("fileserver: something other than the announced file's placeholder was written")
	errUnconsumed  = errors.New("fileserver: the announced file's placeholder did not reach the connection")
)

// announce says that the placeholder of a part of a file comes next, after what is left
// of the response's header. The placeholder may come in pieces. With the first piece the
// part goes out, and then the length of the placeholder is known.
func (s *http1Sender) announce(a announcement) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.announced, s.sent, s.unclaimed = a, filerange.Sent{}, 0
}

// expect says that the header is out.
func (s *http1Sender) expect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.announced.headerOut = s.announced.part.File != nil
}

// rest returns how many bytes of the placeholder are still to come.
func (s *http1Sender) rest() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unclaimed
}

// write writes p as it is, or sends the file if p is a placeholder.
func (s *http1Sender) write(p []byte) (n int, err error) {
	defer func() {
		if errors.Is(err, errPlaceholder) {
			s.server.distrust() // with no lock held
		}
	}()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.err != nil: // what comes now is not looked at
		return 0, s.err
	case isPlaceholder(p):
		return s.claim(int64(len(p)))
	case s.unclaimed > 0, s.announced.headerOut:
		s.abort()
		return 0, errPlaceholder
	case s.announced.part.File == nil:
		n, s.err = s.tls.Write(p)
		return n, s.err
	case len(s.held)+len(p) <= maxHeld:
		s.held = append(s.held, p...)
		return len(p), nil
	}
	if _, s.err = s.tls.Write(s.held); s.err != nil {
		return 0, s.err
	}
	s.held = s.held[:0]
	n, s.err = s.tls.Write(p)
	return n, s.err
}

// claim takes n bytes of a placeholder. The first of them send the announced part, after
// what was held. If the kernel refuses, the part is copied, and nothing is sent ahead.
// Caller holds s.mu.
func (s *http1Sender) claim(n int64) (_ int, err error) {
	if a := s.announced; a.headerOut && n == a.first {
		s.announced = announcement{}
		s.sent.Sendfile, err = s.tls.SendFile(s.held, a.part)
		s.held = s.held[:0]
		s.server.countSent(s.sent.Sendfile)
		if errors.Is(err, ktls.ErrNoSendfile) {
			if s.sent.Copied, err = a.part.Rest(s.sent.Sendfile).CopyTo(s.tls); err != nil {
				s.abort() // not an orderly end, because a part must not look like the whole
			}
		}
		if s.err = err; err != nil {
			return int(min(s.sent.Total(), n)), err
		}
		s.unclaimed = s.sent.Total()
	}
	if n > s.unclaimed {
		s.abort()
		return 0, errPlaceholder
	}
	s.unclaimed -= n
	return int(n), nil
}

// finish ends an announcement, and returns what has gone out. If the placeholder has not
// come, it cuts the connection off, because nothing may follow what the response's header
// has promised. err is why the placeholder could not be written. If it could be written,
// something between net/http and the connection has kept it.
func (s *http1Sender) finish(err error) (filerange.Sent, error) {
	s.mu.Lock()
	sent := s.sent
	err = cmp.Or(err, s.err) // s.err may have been hidden by something in between
	missing := s.withdraw()
	s.mu.Unlock()
	if missing && err == nil {
		s.server.distrust()
		err = errUnconsumed
	}
	return sent, err
}

// cancel ends an announcement that a panic has left, if there is one.
func (s *http1Sender) cancel() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.withdraw()
}

// withdraw ends an announcement. It cuts the connection off if some of the placeholder is
// missing. Caller holds s.mu.
func (s *http1Sender) withdraw() (missing bool) {
	missing = s.announced.part.File != nil || s.unclaimed > 0
	if missing {
		s.abort()
	}
	return missing
}

// abort cuts the connection off, so that the client sees that the response is
// not whole. Caller holds s.mu.
func (s *http1Sender) abort() {
	s.announced, s.unclaimed = announcement{}, 0
	s.err = cmp.Or[error](s.err, net.ErrClosed)
	_ = s.tls.NetConn().Close()
}
