//go:build !linux

package harness

import "net"

// A SocketOption is nothing here: the tests that need some need Linux.
type SocketOption struct{}

// ReceiveBuffer is the size of the receive buffer.
func ReceiveBuffer(int) SocketOption { return SocketOption{} }

// MaxSegment is the greatest length of a segment.
func MaxSegment(int) SocketOption { return SocketOption{} }

func dialer(...SocketOption) *net.Dialer { return new(net.Dialer) }
