package integration_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// halfCloser is a backend that upgrades a connection, sends hello, closes its sending
// side, as docker attach's does when the command has ended, and reads on. What it
// has read to the end goes to got.
func halfCloser(t testing.TB, hello []byte) (addr string, got chan []byte) {
	t.Helper()
	got = make(chan []byte, 10)
	addr = harness.UpgradingBackend(t, func(conn *net.TCPConn, r *bufio.Reader) {
		_, _ = conn.Write(hello)
		_ = conn.CloseWrite()
		_ = conn.SetReadDeadline(time.Now().Add(testutil.Patience))
		b, _ := io.ReadAll(r)
		got <- b
	})
	return addr, got
}

// An upgraded connection of which the backend closes one half carries data the other
// way, as without the module. Caddy's access log hides the half in both cases.
func TestUpgradeHalfClosed(t *testing.T) {
	harness.RequireKernelTLS(t)
	u := upgrade{hello: bytes.Repeat([]byte("hello "), 50_000), answer: bytes.Repeat([]byte("answer "), 50_000)}
	for _, accessLog := range []bool{false, true} {
		var addr string
		addr, u.got = halfCloser(t, u.hello)
		log := ""
		if accessLog {
			log = "log {\n output discard\n}"
		}
		c, f := harness.StartWithFile(t, harness.Large, upgradeSites(addr, log, ""))
		var stock string
		for i, name := range []string{"stock", "large", "all", "after a file"} {
			t.Run(fmt.Sprintf("%s, access log %v", name, accessLog), func(t *testing.T) {
				conn := c.At([]string{"PORT", "PORT2", "PORT3", "PORT2"}[i]).Dial(t, c.TLSConfig(t))
				testutil.Must(t, conn.SetDeadline(time.Now().Add(testutil.Patience)))
				reader := bufio.NewReader(conn)
				if name == "after a file" {
					harness.SendGet(t, conn, "/f")
					harness.WantBody(t, harness.ReadResponse(t, reader), http.StatusOK, f.Digest)
				}
				result := u.run(t, conn, reader)
				switch {
				case name == "stock":
					stock = result
				case result != stock:
					t.Errorf("the backend has got %s; with stock Caddy: %s", result, stock)
				}
				if !accessLog && result != wholeAnswer {
					t.Error("the backend has got " + result)
				}
				if want := i >= 2; wasOffloaded(c, conn) != want {
					t.Errorf("offloaded: %v", !want)
				}
			})
		}
	}
}

// upgradeSites are three sites that are proxies for a backend where a connection is to
// be upgraded: without the module, and with either option of offload. They have more
// directives, and options of the proxy.
func upgradeSites(backend, more, options string) string {
	var config strings.Builder
	for i, ktls := range directives {
		fmt.Fprintf(&config, "https://localhost:{$%s} {\n%s\n%s\nroot {$ROOT}\n@up header Connection Upgrade\nreverse_proxy @up %s {\n%s\n}\nfile_server\n}\n",
			upgradePorts[i], ktls, more, backend, options)
	}
	return config.String()
}

var upgradePorts = []string{"PORT", "PORT2", "PORT3"}

// forUpgradeSites runs a test with each of upgradeSites.
func forUpgradeSites(t *testing.T, c *harness.Caddy, test func(t *testing.T, s harness.Site, stock bool)) {
	t.Helper()
	for i, port := range upgradePorts {
		t.Run([]string{"stock", "large", "all"}[i], func(t *testing.T) { test(t, c.At(port), i == 0) })
	}
}

// An upgrade is what goes over upgraded connections.
type upgrade struct {
	hello, answer []byte
	got           chan []byte // by the backend
}

const wholeAnswer = "the answer"

// run has a connection upgraded, gets the backend's hello to its end, and says what
// the backend has got of the answer.
func (u upgrade) run(t testing.TB, conn *tls.Conn, reader *bufio.Reader) string {
	t.Helper()
	_, err := io.WriteString(conn, harness.UpgradeText("/", "raw"))
	testutil.Must(t, err)
	resp, err := http.ReadResponse(reader, nil)
	testutil.Must(t, err)
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(resp.Status)
	}
	hello, err := io.ReadAll(reader)
	if err != nil || !bytes.Equal(hello, u.hello) {
		t.Errorf("%d bytes of %d, %v", len(hello), len(u.hello), err)
	}
	_, _ = conn.Write(u.answer) // with the access log the connection may be closed
	_ = conn.CloseWrite()
	if b := <-u.got; bytes.Equal(b, u.answer) {
		return wholeAnswer
	}
	return "nothing of the answer"
}

// wasOffloaded tells whether the log says that a client's connection was offloaded.
func wasOffloaded(c *harness.Caddy, conn net.Conn) bool {
	return slices.ContainsFunc(c.Log.WithMessage("connection offloaded"), func(e harness.LogEntry) bool {
		return e.Text("remote") == conn.LocalAddr().String()
	})
}
