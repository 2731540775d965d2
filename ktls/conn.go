package ktls

import (
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"
	"time"
)

// A Conn is the server's side of a TLS connection. crypto/tls handles the handshake and
// receives. It also sends until the connection is offloaded. Then the kernel encrypts
// what is sent, and files go out by sendfile(2).
//
// A Conn may be used as any net.Conn: reads, writes and Close may run at the same time.
//
// SendFile, SendFrames and Cork are for package fileserver of this module.
type Conn struct {
	tls    *tls.Conn
	tap    *tap // below crypto/tls, unless the raw connection can't be offloaded
	raw    net.Conn
	kernel kernel // nil if the raw connection can't be offloaded
	server *Server

	handshake handshakeState

	// Before the offload.
	decision atomic.Uint32 // a State, with isDecided once it is final
	asked    atomic.Bool   // the next write offloads the connection

	// After the offload.
	out     outgoing
	renewal keyRenewal

	// Close takes no lock that is held while something waits. These fields tell it what
	// is going on.
	closed   atomic.Bool
	calls    atomic.Int32 // calls that send for the connection's user, which Close interrupts
	deadline writeDeadline
}

// Read reads decrypted data.
func (c *Conn) Read(p []byte) (int, error) {
	if err := c.Handshake(); err != nil {
		return 0, err
	}
	if c.closed.Load() {
		return 0, net.ErrClosed // the socket may be open for the last bytes
	}
	n, err := c.tls.Read(p)
	for errors.Is(err, ErrRetired) {
		c.tellRetired()
		if c.server.options.InterruptRetired {
			break
		}
		n, err = c.tls.Read(p)
	}
	c.tellAfterRead()
	if err != nil && c.closed.Load() {
		err = net.ErrClosed
	}
	return n, err
}

// Write encrypts and sends p, or has the kernel do it.
func (c *Conn) Write(p []byte) (int, error) {
	if err := c.Handshake(); err != nil {
		return 0, err
	}
	c.lock()
	defer c.unlock()
	if c.State() == Offloaded {
		return c.send(p, false)
	}
	if !c.asked.Load() {
		return c.tls.Write(p)
	}
	return c.writeAndOffload(p)
}

// LocalAddr returns the local address of the TCP connection.
func (c *Conn) LocalAddr() net.Addr { return c.raw.LocalAddr() }

// RemoteAddr returns the peer's address.
func (c *Conn) RemoteAddr() net.Addr { return c.raw.RemoteAddr() }

// SetDeadline sets the deadlines of reads and writes, see net.Conn. After a write that
// has timed out, nothing more can be written.
func (c *Conn) SetDeadline(t time.Time) error {
	c.deadline.set(t)
	return c.raw.SetDeadline(t)
}

// SetReadDeadline sets the deadline of reads.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.raw.SetReadDeadline(t) }

// SetWriteDeadline sets the deadline of writes, including sendfile(2).
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.deadline.set(t)
	return c.raw.SetWriteDeadline(t)
}

// NetConn returns the connection below TLS. Writing to it corrupts the
// connection.
func (c *Conn) NetConn() net.Conn { return c.raw }

var _ net.Conn = (*Conn)(nil)
