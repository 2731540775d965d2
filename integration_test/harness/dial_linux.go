package harness

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// A SocketOption is set before a client connects.
type SocketOption struct{ level, name, value int }

// ReceiveBuffer is the size of the receive buffer in bytes, and with it of the window.
func ReceiveBuffer(n int) SocketOption { return SocketOption{unix.SOL_SOCKET, unix.SO_RCVBUF, n} }

// MaxSegment is the greatest length of a segment that the client takes.
func MaxSegment(n int) SocketOption { return SocketOption{unix.IPPROTO_TCP, unix.TCP_MAXSEG, n} }

// dialer returns a dialer whose connections have these options.
func dialer(options ...SocketOption) *net.Dialer {
	return &net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		ctlErr := raw.Control(func(fd uintptr) {
			for _, o := range options {
				err = errors.Join(err, unix.SetsockoptInt(int(fd), o.level, o.name, o.value))
			}
		})
		return errors.Join(ctlErr, err)
	}}
}
