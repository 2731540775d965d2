package integration_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// An upgradedConn is a client's upgraded connection.
type upgradedConn struct {
	*tls.Conn
	raw    *harness.TrailedConn
	reader *bufio.Reader
}

func (c upgradedConn) Read(p []byte) (int, error) { return c.reader.Read(p) }

// upgradeAfterFile gets a file over a connection, and has it upgraded.
func upgradeAfterFile(t testing.TB, s harness.Site, f harness.File, path, protocol string) upgradedConn {
	t.Helper()
	raw := &harness.TrailedConn{TCPConn: s.DialTCP(t)}
	testutil.Must(t, raw.SetDeadline(time.Now().Add(testutil.Patience)))
	conn := tls.Client(raw, s.TLSConfig(t))
	reader := bufio.NewReader(conn)
	harness.SendGet(t, conn, "/f")
	harness.WantBody(t, harness.ReadResponse(t, reader), http.StatusOK, f.Digest)
	_, err := io.WriteString(conn, harness.UpgradeText(path, protocol))
	testutil.Must(t, err)
	resp, err := http.ReadResponse(reader, nil)
	testutil.Must(t, err)
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(resp.Status)
	}
	return upgradedConn{conn, raw, reader}
}

// Over an upgraded connection that was offloaded before, both sides send at once. Then
// the client closes its direction, and the backend says what it has got.
func TestUpgradeBothDirections(t *testing.T) {
	harness.OnKernel(t, "6.1")
	harness.RequireKernelTLS(t)
	down, up := testutil.Body(3<<20+1, "down"), testutil.Body(2<<20+3, "up")
	backend := harness.UpgradingBackend(t, func(conn *net.TCPConn, r *bufio.Reader) {
		_ = conn.SetDeadline(time.Now().Add(testutil.Patience))
		sent := make(chan error, 1)
		go func() {
			_, err := conn.Write(down)
			sent <- err
		}()
		got, err := harness.ReadDigest(r)
		fmt.Fprint(conn, got, err, <-sent)
	})
	c, f := harness.StartWithFile(t, harness.Large, upgradeSites(backend, "", ""))
	forUpgradeSites(t, c, func(t *testing.T, s harness.Site, stock bool) {
		before := c.Metrics(t)
		conn := upgradeAfterFile(t, s, f, "/", "raw")
		sent := make(chan error, 1)
		go func() {
			_, err := conn.Write(up)
			sent <- errors.Join(err, conn.CloseWrite())
		}()
		got, err := io.ReadAll(conn)
		testutil.Must(t, err)
		testutil.Must(t, <-sent)
		testutil.SameBody(t, got, append(bytes.Clone(down), fmt.Sprint(harness.DigestOf(up), nil, nil)...))
		want := harness.Counts{}
		if !stock {
			want = harness.SentByKernel(f.Size)
		}
		c.Expect(t, before, want)
	})
	results.Fault(t, serverLife, "Both sides send over an upgraded connection at once, and the client closes its direction first", afterFile, "whole")
}

const afterFile = "HTTP/1.1, after a file, the same as without the module"

// What ends the configuration ends upgraded connections as it does without the module.
func TestUpgradeEnds(t *testing.T) {
	harness.OnKernel(t, "6.12")
	harness.RequireKernelTLS(t)
	backend := shouting(t)
	config := func(number int) string {
		return upgradeSites(backend, fmt.Sprintf("header Configuration %d\nreverse_proxy /later %s {\nstream_close_delay 1s\n}", number, backend), "")
	}
	c, f := harness.StartWithFile(t, harness.Large, config(1))
	now, later := upgradeAll(t, c, f, "/"), upgradeAll(t, c, f, "/later")
	c.Reload(t, config(2))
	now.wantSameEnd(t)
	later.wantSameEnd(t)
	results.Fault(t, serverLife, "Reload with upgraded connections", afterFile, "closed in order, at once or after stream_close_delay")

	c, f = harness.StartWithFile(t, harness.Large, config(1))
	now = upgradeAll(t, c, f, "/")
	c.Signal(t, os.Interrupt)
	now.wantSameEnd(t)
	c.WaitExit(t)
	results.Fault(t, serverLife, "SIGINT with upgraded connections", afterFile, "closed in order, at once")
}

// upgradedConns are upgraded connections of upgradeSites. Of each protocol, the first is
// to the one without the module.
type upgradedConns map[string][]upgradedConn

// upgradeAll opens them. WebSocket is the one protocol of which Caddy knows how to say
// goodbye.
func upgradeAll(t testing.TB, c *harness.Caddy, f harness.File, path string) upgradedConns {
	t.Helper()
	all := upgradedConns{}
	for _, protocol := range []string{"raw", "websocket"} {
		for i, port := range upgradePorts {
			conn := upgradeAfterFile(t, c.At(port), f, path, protocol)
			exchange(t, conn, i)
			all[protocol] = append(all[protocol], conn)
		}
	}
	return all
}

// wantSameEnd checks that each connection ends in order, and as without the module.
func (all upgradedConns) wantSameEnd(t testing.TB) {
	t.Helper()
	for protocol, conns := range all {
		var stock []byte
		for i, conn := range conns {
			got, err := io.ReadAll(conn)
			if i == 0 {
				stock = got
			}
			if err != nil || !conn.raw.CloseNotify() || !bytes.Equal(got, stock) {
				t.Errorf("%s, site %d: %x, %v, close_notify %v; without the module %x", protocol, i, got, err, conn.raw.CloseNotify(), stock)
			}
		}
	}
}
