package integration_test

import (
	"context"
	"net"
	"syscall"
	"testing"
)

// dialNarrow opens a TCP connection to the site with a receive buffer of that
// many bytes, which keeps the window small from the first packet on.
func (c *caddy) dialNarrow(t testing.TB, buffer int) *net.TCPConn {
	t.Helper()
	dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		if ctlErr := raw.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, buffer)
		}); ctlErr != nil {
			return ctlErr
		}
		return err
	}}
	conn, err := dialer.DialContext(context.Background(), "tcp", "127.0.0.1:"+c.port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn.(*net.TCPConn)
}
