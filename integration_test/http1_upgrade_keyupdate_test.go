package integration_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// shouting starts a backend that upgrades a connection, and answers each line in upper
// case. It returns its address.
func shouting(t testing.TB) string {
	t.Helper()
	return harness.UpgradingBackend(t, func(conn *net.TCPConn, r *bufio.Reader) {
		for {
			line, err := r.ReadBytes('\n')
			if err != nil {
				return
			}
			if _, err := conn.Write(bytes.ToUpper(line)); err != nil {
				return
			}
		}
	})
}

// exchange sends a long line over an upgraded connection, and wants the answer. The line
// has nothing in it that openssl takes for a command.
func exchange(t testing.TB, conn io.ReadWriter, number int) {
	t.Helper()
	line := hex.EncodeToString(testutil.Body(50_000, number)) + "\n"
	sent := make(chan error, 1)
	go func() {
		_, err := io.WriteString(conn, line)
		sent <- err
	}()
	got := make([]byte, len(line))
	n, err := io.ReadFull(conn, got)
	if err != nil {
		t.Fatalf("line %d: %d bytes of the answer have come, %v", number, n, err)
	}
	testutil.SameBody(t, got, []byte(strings.ToUpper(line)))
	testutil.Must(t, <-sent)
}

// A client may send KeyUpdates over an upgraded connection, also after a reload that lets
// the connection live. If the kernel can't follow, the connection goes on all the same,
// because no response ends after which it could be closed.
func TestUpgradeKeyUpdate(t *testing.T) {
	harness.RequireKernelTLS(t)
	backend, number := shouting(t), 0
	config := func() string {
		number++
		return upgradeSites(backend, fmt.Sprint("header Configuration ", number), "stream_close_delay 1h")
	}
	c, f := harness.StartWithFile(t, harness.Large, config())
	forUpgradeSites(t, c, func(t *testing.T, s harness.Site, stock bool) {
		before := c.Metrics(t)
		p := harness.Connect(t, s, harness.OpenSSL, "localhost", harness.SuiteByID(tls.TLS_AES_128_GCM_SHA256))
		p.WantFile(t, "/f", f)
		p.Send(t, harness.UpgradeText("/", "raw"))
		wantSwitched(t, p)
		exchange(t, p, 1)
		p.Update(t, harness.OpenSSL.Update)
		exchange(t, p, 2)
		p.Update(t, harness.OpenSSL.UpdateBoth)
		exchange(t, p, 3)
		c.WhileStopped(t, func() { p.UpdateThrice(t, harness.OpenSSL.UpdateBoth) })
		exchange(t, p, 4)
		c.Reload(t, config())
		p.Update(t, harness.OpenSSL.UpdateBoth)
		exchange(t, p, 5)
		p.Update(t, harness.OpenSSL.Update)
		exchange(t, p, 6)
		p.Leave(t)
		want := harness.Counts{}
		if !stock {
			want = answered(t, harness.SentByKernel(f.Size), harness.AnyNumber)
		}
		c.Expect(t, before, want)
	})
	result := "right data both ways; the KeyUpdates are answered"
	if !harness.Rekeys(t) {
		result = "right data both ways; the KeyUpdates are not answered, and the connection goes on"
	}
	results.Fault(t, serverLife, "KeyUpdates of the client on an upgraded connection, requested in return and not", "HTTP/1.1, after a file, before and after a reload", result)
}

// wantSwitched reads the response to a request to upgrade. Its header must say nothing
// of an end of the connection.
func wantSwitched(t testing.TB, p *harness.Peer) {
	t.Helper()
	resp := p.Response(t)
	if got := resp.Header["Connection"]; resp.StatusCode != http.StatusSwitchingProtocols || !slices.Equal(got, []string{"Upgrade"}) {
		t.Errorf("status %s, Connection: %q", resp.Status, got)
	}
}

// A connection that should be closed, because the kernel can't follow a KeyUpdate, can
// still be upgraded. The client is not told then that it will be closed.
func TestUpgradeAfterKeyUpdate(t *testing.T) {
	harness.RequireKernelTLS(t)
	c, f := harness.StartWithFile(t, harness.Large, upgradeSites(shouting(t), "", ""))
	forUpgradeSites(t, c, func(t *testing.T, s harness.Site, _ bool) {
		p := harness.Connect(t, s, harness.OpenSSL, "localhost", harness.SuiteByID(tls.TLS_AES_128_GCM_SHA256))
		p.WantFile(t, "/f", f)
		c.WhileStopped(t, func() {
			p.Update(t, harness.OpenSSL.UpdateBoth)
			p.Send(t, harness.UpgradeText("/", "raw"))
		})
		wantSwitched(t, p)
		exchange(t, p, 1)
		p.Update(t, harness.OpenSSL.UpdateBoth)
		exchange(t, p, 2)
		p.Leave(t)
	})
	results.Fault(t, serverLife, "A KeyUpdate of the client, requested in return, with a request to upgrade behind it", afterFile, "upgraded")
}
