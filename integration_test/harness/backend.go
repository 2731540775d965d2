package harness

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// UpgradingBackend starts a server that accepts any request to upgrade, to whatever
// protocol, and then serves the connection. r has what the client sends. It returns the
// server's address.
func UpgradingBackend(t testing.TB, serve func(conn *net.TCPConn, r *bufio.Reader)) (address string) {
	t.Helper()
	ln := testutil.Listen(t)
	upgrade := func(conn *net.TCPConn) {
		defer conn.Close()
		r := bufio.NewReader(conn)
		request, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		_, err = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+request.Header.Get("Upgrade")+"\r\n\r\n")
		if err == nil {
			serve(conn, r)
		}
	}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go upgrade(conn.(*net.TCPConn))
		}
	}()
	return ln.Addr().String()
}

// UpgradeText returns a request of HTTP/1.1 for a path of localhost, to upgrade to a
// protocol.
func UpgradeText(path, protocol string) string {
	return RequestText(path, "Connection: Upgrade", "Upgrade: "+protocol)
}
