//go:build !fakekernel || !linux

package ktls

import "net"

// openKernel returns the kernel's side of a connection, or nil if it has none.
func openKernel(tcp *net.TCPConn) kernel { return newSocket(tcp) }

func probeKernel() (Support, error) { return probe() }
