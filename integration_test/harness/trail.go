package harness

import (
	"net"
	"sync"
)

// A Trail follows the TLS records that a client receives.
type Trail struct {
	mu     sync.Mutex // guards what follows
	header []byte     // of the record that is being read
	left   int        // bytes of its payload that are to come
	last   int        // payload of the last record
}

// Follow takes what comes next.
func (r *Trail) Follow(p []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(p) > 0 {
		if r.left > 0 {
			n := min(r.left, len(p))
			r.left -= n
			p = p[n:]
			continue
		}
		r.header = append(r.header, p[0])
		if p = p[1:]; len(r.header) == 5 {
			r.left = int(r.header[3])<<8 | int(r.header[4])
			r.last = r.left
			r.header = r.header[:0]
		}
	}
}

// CloseNotify reports whether the last record is whole, and has the length of an alert in
// TLS 1.3 (level, description, type, tag). crypto/tls does not tell: between two records
// it takes the end of the TCP connection for an orderly one.
func (r *Trail) CloseNotify() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.left == 0 && len(r.header) == 0 && r.last == 2+1+16
}

// A TrailedConn is a client's TCP connection with a Trail.
type TrailedConn struct {
	*net.TCPConn
	Trail
}

func (c *TrailedConn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	c.Follow(p[:n])
	return n, err
}
