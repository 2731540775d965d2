package integration_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// endings is a site whose connections end in several ways, and that says in a
// file of its own what it has sent.
const endings = `
{
	grace_period 30s
	servers {
		listener_wrappers {
			ktls
		}
		timeouts {
			idle ` + idleTimeout + `
		}
	}
}
https://localhost:{$PORT} {
	ktls
	root {$ROOT}
	file_server
	log {
		output file {$DIR}/access
	}
}`

// idleTimeout is longer than a slow machine takes between a handshake and its
// request.
const idleTimeout = "3s"

// serving returns how many connections Caddy's HTTP servers have not closed, that
// of the question included.
func serving(t testing.TB, c *harness.Caddy) int {
	t.Helper()
	goroutines := c.Admin(t, http.MethodGet, "/debug/pprof/goroutine?debug=2", "", "")
	return bytes.Count(goroutines, []byte("created by net/http.(*Server).Serve in"))
}

// closedAll waits until they have closed what has come since before.
func closedAll(t testing.TB, c *harness.Caddy, before int) {
	t.Helper()
	testutil.Eventually(t, "the server has closed the connections", func() error {
		if n := serving(t, c); n > before {
			return fmt.Errorf("%d are open, before %d", n, before)
		}
		return nil
	})
}

// sendBuffers sets the size of the machine's send buffers until the end of the
// test.
func sendBuffers(t *testing.T, size int) {
	t.Helper()
	const name = "/proc/sys/net/ipv4/tcp_wmem"
	before, err := os.ReadFile(name)
	testutil.Must(t, err)
	if err := os.WriteFile(name, fmt.Appendf(nil, "4096 %d %d", size, size), 0); err != nil {
		testutil.Missing(t, "needs root: "+err.Error())
	}
	t.Cleanup(func() { _ = os.WriteFile(name, before, 0) })
}

// What the server reports as sent arrives whole and is followed by close_notify,
// however little the client's window and the send buffer hold, and however the
// connection ends.
func TestLastBytes(t *testing.T) {
	harness.OnKernel(t, "6.1")
	harness.RequireKernelTLS(t)
	buffers := []int{64 << 10, 0}
	if harness.Long() {
		// Less than a record.
		buffers = append(buffers, 4096)
	}
	for _, buffer := range buffers {
		t.Run(fmt.Sprintf("send buffer %d", buffer), func(t *testing.T) { testLastBytes(t, buffer) })
	}
	const how = "receive buffer of the client 2 KiB or default × send buffer 64 KiB or default; the client reads little or nothing until the server reports the body as sent"
	whole := "whole, and close_notify"
	results.Fault(t, "The last bytes", "`Connection: close`, HTTP/1.1", how, whole)
	results.Fault(t, "The last bytes", "idle timeout of the server, HTTP/1.1 and HTTP/2", how, whole)
	results.Fault(t, "The last bytes", "client ends its own direction, TLS and TCP, HTTP/1.1", how, whole)
	results.Fault(t, "The last bytes", "server stops within its grace period, HTTP/1.1 and HTTP/2", how, whole)
	results.Fault(t, "The last bytes", "client resets the connection when the body is reported as sent", "receive buffer of the client 2 KiB", "counted in `connections_lost`")
}

func testLastBytes(t *testing.T, buffer int) {
	if buffer > 0 {
		sendBuffers(t, buffer)
	}
	c, f := harness.StartWithFile(t, 300_007, endings)
	c.WantFile(t, "/f", f)
	// The client reads little, or nothing if the send buffer holds the whole body.
	pace := 4 * time.Millisecond
	if buffer == 0 {
		pace = testutil.Patience
	}
	testEndings(t, c, f, pace, buffer == 0)
	if buffer == 0 {
		testLost(t, c, f, pace)
	}
	testStopping(t, c, f, pace)
}

// nameOf names a client by how its connection ends.
func nameOf(end, protocol string, window int) string {
	return strings.ReplaceAll(fmt.Sprintf("%s-%s-%d", end, protocol, window), "/", "")
}

// goOn has clients read the rest, which has to be whole.
func goOn(t *testing.T, f harness.File, clients []*lastBytes) {
	t.Helper()
	for _, l := range clients {
		l.conn.resume()
	}
	for _, l := range clients {
		l.wantWhole(t, f)
	}
}

// testEndings has connections end while Caddy goes on. If the send buffer holds
// everything, the server doesn't wait for the clients.
func testEndings(t *testing.T, c *harness.Caddy, f harness.File, pace time.Duration, all bool) {
	before, descriptors, open := c.Metrics(t), harness.Descriptors(t, c), serving(t, c)
	var clients []*lastBytes
	for _, window := range []int{2048, 0} {
		add := func(end, protocol string, pace time.Duration, header ...string) {
			clients = append(clients, takeSlowly(t, c, nameOf(end, protocol, window), protocol, window, pace, header...))
		}
		add("close", harness.HTTP1, pace, "Connection: close")
		add("idle", harness.HTTP1, pace)
		add("idle", harness.HTTP2, pace)
		add("half-closed", harness.HTTP1, 4*time.Millisecond)
	}
	reported(t, c, f, clients...)
	if all {
		closedAll(t, c, open) // else a GOAWAY may wait for the client
	}
	goOn(t, f, clients)
	n := int64(len(clients))
	c.Expect(t, before, harness.SentTimes(n, n, n*f.Size))
	harness.WantDescriptors(t, c, descriptors)
}

// testLost has a body be reported as sent, and yet be lost: the client goes away.
func testLost(t *testing.T, c *harness.Caddy, f harness.File, pace time.Duration) {
	before, open := c.Metrics(t), serving(t, c)
	gone := takeSlowly(t, c, "gone", harness.HTTP1, 2048, pace, "Connection: close")
	reported(t, c, f, gone)
	closedAll(t, c, open)
	testutil.Must(t, gone.conn.SetLinger(0))
	testutil.Must(t, gone.conn.TCPConn.Close())
	gone.conn.resume()
	if <-gone.done; gone.err == nil {
		t.Error("the client that has gone has got everything")
	}
	want := harness.SentByKernel(f.Size)
	want["connections_lost"] = 1
	c.Expect(t, before, want)
}

// testStopping has connections end because Caddy is asked to end.
func testStopping(t *testing.T, c *harness.Caddy, f harness.File, pace time.Duration) {
	before := c.Metrics(t)
	var clients []*lastBytes
	for _, window := range []int{2048, 0} {
		for _, protocol := range harness.Protocols {
			clients = append(clients, takeSlowly(t, c, nameOf("stop", protocol, window), protocol, window, pace))
		}
	}
	reported(t, c, f, clients...)
	n := int64(len(clients))
	c.Expect(t, before, harness.SentTimes(n, n, n*f.Size))
	c.Signal(t, os.Interrupt)
	c.Log.AwaitMessage(t, "servers shutting down; grace period initiated", 1)
	goOn(t, f, clients)
	c.WaitExit(t)
}
