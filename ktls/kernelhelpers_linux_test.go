package ktls

import (
	"bufio"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// realServer is a server that uses the kernel.
func realServer(t testing.TB, mode mode) *fakeServer {
	t.Helper()
	support := testutil.RequireKernelTLS(t, Probe)
	s := newFakeServer(t, serverConfig(), mode, nil)
	s.support, s.newKernel = support, newSocket
	return s
}

// txSockets tells how many sockets the kernel has made records for so far.
func txSockets(t testing.TB) int {
	t.Helper()
	f, err := os.Open("/proc/net/tls_stat")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) == 2 && fields[0] == "TlsTxSw" {
			n, err := strconv.Atoi(fields[1])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no TlsTxSw in /proc/net/tls_stat")
	return 0
}

// wantTxSockets checks how many sockets were offloaded since before.
func wantTxSockets(t testing.TB, before, want int) {
	t.Helper()
	if n := txSockets(t) - before; n != want {
		t.Errorf("%d sockets were offloaded, want %d", n, want)
	}
}

// smallPair is tcpPair with a receive window of the client that is as small as
// it gets, and a small send buffer of the server if sndbuf isn't 0.
func smallPair(t testing.TB, sndbuf int) (client, server *net.TCPConn) {
	t.Helper()
	client, server = dialPair(t, &net.Dialer{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		_ = raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096) })
		return err
	}})
	if sndbuf > 0 {
		if err := server.SetWriteBuffer(sndbuf); err != nil {
			t.Fatal(err)
		}
	}
	return client, server
}
