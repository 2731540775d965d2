package integration_test

import (
	"context"
	"net"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// dialNarrow opens a TCP connection to the site with a receive buffer of that
// many bytes, which keeps the window small from the first packet on.
func (c *caddy) dialNarrow(t testing.TB, buffer int) *net.TCPConn {
	t.Helper()
	conn, err := narrow(buffer).DialContext(context.Background(), "tcp", "127.0.0.1:"+c.port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn.(*net.TCPConn)
}

// narrow returns a dialer whose connections have such a receive buffer.
func narrow(buffer int) *net.Dialer {
	return &net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		if ctlErr := raw.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, buffer)
		}); ctlErr != nil {
			return ctlErr
		}
		return err
	}}
}

// unread returns how many bytes a pipe holds.
func unread(t testing.TB, pipe *os.File) int {
	t.Helper()
	raw, err := pipe.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	if ctlErr := raw.Control(func(fd uintptr) {
		n, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ)
	}); ctlErr != nil {
		t.Fatal(ctlErr)
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}
