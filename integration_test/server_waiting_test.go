package integration_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// waitingConns are connections on which no request is being handled.
type waitingConns map[string]net.Conn

// waiting opens connections of each kind, with the module and without.
func waiting(t testing.TB, c *harness.Caddy) waitingConns {
	t.Helper()
	all := waitingConns{}
	for _, site := range sitesToCompare(c) {
		dial := func(protocol string) *tls.Conn { return site.Dial(t, site.TLSConfig(t, protocol)) }
		all[site.name+", no handshake"] = site.DialTCP(t)
		all[site.name+", no request"] = dial(harness.HTTP1)
		half := dial(harness.HTTP1)
		_, err := io.WriteString(half, "GET /h2 HTTP/1.1\r\nHo")
		testutil.Must(t, err)
		all[site.name+", half a request"] = half
		for _, path := range []string{"/none", "/h2"} {
			one := dial(harness.HTTP1)
			harness.SendGet(t, one, path)
			harness.ReadResponse(t, bufio.NewReader(one))
			all[site.name+", HTTP/1.1 idle after "+path] = one
			conn := dial(harness.HTTP2)
			two := harness.NewHTTP2(t, conn, harness.WideWindows())
			response := two.Get(path)
			two.Wait("the response ends", func() bool { return response.Ended })
			all[site.name+", HTTP/2 idle after "+path] = &readByOther{conn, two.Done}
		}
	}
	return all
}

// A readByOther is a connection that somebody else reads, until done is closed.
type readByOther struct {
	net.Conn
	done <-chan struct{}
}

func (c *readByOther) Read([]byte) (int, error) {
	<-c.done
	return 0, io.EOF
}

// wantClosed waits until the server has closed them all.
func (all waitingConns) wantClosed(t testing.TB) {
	t.Helper()
	for name, conn := range all {
		timer := time.AfterFunc(testutil.Patience, func() {
			t.Errorf("%s: not closed by the server", name)
			_ = conn.Close()
		})
		_, _ = io.Copy(io.Discard, conn)
		timer.Stop()
	}
}
