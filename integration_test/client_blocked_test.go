package integration_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A flood is a backend that takes any upgrade, and then sends without an end.
type flood struct {
	addr  string
	piece []byte // what is sent, again and again
	sent  atomic.Int64
	ended chan struct{} // gets one for each connection
}

func newFlood(t testing.TB) *flood {
	t.Helper()
	f := &flood{piece: testutil.Body(64<<10 - 1), ended: make(chan struct{}, 10)}
	f.addr = harness.UpgradingBackend(t, func(conn *net.TCPConn, _ *bufio.Reader) {
		var err error
		for err == nil {
			var n int
			n, err = conn.Write(f.piece)
			f.sent.Add(int64(n))
		}
		_ = conn.Close()
		f.ended <- struct{}{}
	})
	return f
}

// blockedClient returns the connection of a client that has asked for the flood and
// reads no more, when Caddy can't send any more to it.
func (f *flood) blockedClient(t testing.TB, c *harness.Caddy, path string) blockedClient {
	t.Helper()
	var conn blockedClient
	// After a reload the old configuration may take a connection yet, and close it.
	testutil.Eventually(t, "the connection is upgraded", func() error {
		tcp, err := c.TryTCP(harness.ReceiveBuffer(64 << 10))
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = tcp.Close() })
		raw := &harness.TrailedConn{TCPConn: tcp}
		conn = blockedClient{tls.Client(raw, c.TLSConfig(t)), raw}
		testutil.Must(t, conn.SetReadDeadline(time.Now().Add(testutil.Patience)))
		if _, err = io.WriteString(conn, harness.UpgradeText(path, "flood")); err == nil {
			_, err = conn.Read(make([]byte, 12))
		}
		return err
	})
	last := int64(-1)
	testutil.Eventually(t, "nothing more fits", func() error {
		now := f.sent.Load()
		if now == last && now > 64<<10 {
			return nil
		}
		last = now
		time.Sleep(200 * time.Millisecond)
		return fmt.Errorf("%d bytes have been sent", now)
	})
	return conn
}

// A blockedClient is the connection of a client that does not read.
type blockedClient struct {
	*tls.Conn
	raw *harness.TrailedConn
}

// wantCut reads what a client has not read yet. It must be a beginning of the flood that
// does not end by close_notify.
func (f *flood) wantCut(t testing.TB, conn blockedClient) {
	t.Helper()
	got, err := io.ReadAll(conn)
	_, body, ok := bytes.Cut(got, []byte("\r\n\r\n"))
	switch want := bytes.Repeat(f.piece, len(body)/len(f.piece)+1); {
	case !ok || len(body) < 64<<10 || !bytes.HasPrefix(want, body):
		t.Errorf("%d bytes that are not a beginning of the flood, %v", len(body), err)
	case conn.raw.CloseNotify():
		t.Errorf("%d bytes of the flood, and close_notify", len(body))
	}
}

// directives are a site's without the module, and with either option of offload.
var directives = []string{"", "ktls", "ktls {\n\t\toffload all\n\t}"}

// One client that does not read its upgraded connection holds up nobody: neither the
// timeout of its stream, nor a reload, nor the end of Caddy.
func TestBlockedUpgrade(t *testing.T) {
	const config = `
https://localhost:{$PORT} {
	%s
	log_append round %d
	reverse_proxy /timeout %[3]s {
		stream_timeout 2s
	}
	reverse_proxy %[3]s
}`
	for _, directive := range directives {
		t.Run(directive, func(t *testing.T) {
			f := newFlood(t)
			c := harness.StartCaddy(t, fmt.Sprintf(config, directive, 1, f.addr))

			client := f.blockedClient(t, c, "/timeout")
			testutil.Returns(t, "stream_timeout", func() { <-f.ended })
			f.wantCut(t, client)

			client = f.blockedClient(t, c, "/")
			testutil.Returns(t, "the reload", func() { c.Reload(t, fmt.Sprintf(config, directive, 2, f.addr)) })
			testutil.Returns(t, "the old configuration", func() { <-f.ended })
			f.wantCut(t, client)

			client = f.blockedClient(t, c, "/")
			c.Signal(t, os.Interrupt)
			testutil.Returns(t, "the end of Caddy", func() { <-c.Exited })
			f.wantCut(t, client)
		})
	}
}

// beginHandshake begins a handshake for which a certificate is asked for at a path. A
// connection that the configuration before has taken asks for nothing any more, so there
// may have to be another.
func beginHandshake(t testing.TB, site harness.Site, asked <-chan string, path string) {
	t.Helper()
	testutil.Eventually(t, "a handshake waits for its certificate", func() error {
		conn, err := site.TryTCP()
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = conn.Close() })
		go func() {
			_ = tls.Client(conn, &tls.Config{ServerName: "localhost", InsecureSkipVerify: true}).Handshake()
		}()
		for timeout := time.After(2 * time.Second); ; {
			select {
			case got := <-asked:
				if got == path {
					return nil
				}
			case <-timeout:
				return fmt.Errorf("nobody has asked for it")
			}
		}
	})
}

// A handshake that hangs, because its certificate doesn't come, holds up nobody.
func TestBlockedHandshake(t *testing.T) {
	asked, end := make(chan string, 100), make(chan struct{})
	certificates := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Path
		<-end // and never an answer
	}))
	defer certificates.Close()
	defer close(end)
	const config = `
https://:{$PORT} {
	%s
	tls {
		get_certificate http http://%s/%d
	}
	respond ok
}`
	for _, directive := range directives {
		t.Run(directive, func(t *testing.T) {
			c := harness.StartCaddy(t, fmt.Sprintf(config, directive, certificates.Listener.Addr(), 1))
			beginHandshake(t, c.Site, asked, "/1")
			testutil.Returns(t, "the reload", func() { c.Reload(t, fmt.Sprintf(config, directive, certificates.Listener.Addr(), 2)) })
			beginHandshake(t, c.Site, asked, "/2")
			c.Signal(t, os.Interrupt)
			testutil.Returns(t, "the end of Caddy", func() { <-c.Exited })
		})
	}
}
