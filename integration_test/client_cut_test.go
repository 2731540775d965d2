package integration_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A cutConn ends a connection when so many bytes have gone one way.
type cutConn struct {
	*net.TCPConn
	mu          sync.Mutex // guards what follows
	in, out     int        // bytes that may still be read and written
	read, wrote int        // that were
	cut         func(*net.TCPConn)
	done        bool
}

const unlimited = math.MaxInt

var errCut = errors.New("cut")

// The ways in which a connection is cut.
var cuts = []struct {
	name string
	cut  func(*net.TCPConn)
}{
	{"RST", func(conn *net.TCPConn) {
		_ = conn.SetLinger(0)
		_ = conn.Close()
	}},
	// The server has to close its side then, by itself.
	{"FIN", func(conn *net.TCPConn) {
		_ = conn.CloseWrite()
		_ = conn.SetReadDeadline(time.Now().Add(testutil.Patience))
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, syscall.ETIMEDOUT) || isTimeout(err) {
			panic("the server does not close its side of a connection that has got FIN")
		}
		_ = conn.Close()
	}},
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// end cuts the connection. Caller holds c.mu.
func (c *cutConn) end() {
	if !c.done {
		c.done = true
		c.cut(c.TCPConn)
	}
}

func (c *cutConn) Read(p []byte) (int, error) {
	c.mu.Lock()
	left := c.in
	if left == 0 {
		c.end()
	}
	c.mu.Unlock()
	if left == 0 {
		return 0, errCut
	}
	n, err := c.TCPConn.Read(p[:min(len(p), left)])
	c.mu.Lock()
	defer c.mu.Unlock()
	c.in -= n
	c.read += n
	return n, err
}

func (c *cutConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, err := c.TCPConn.Write(p[:min(len(p), c.out)])
	c.out -= n
	c.wrote += n
	if c.out == 0 {
		c.end()
		return n, errCut
	}
	return n, err
}

// Close cuts, if it has not come to that.
func (c *cutConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end()
	return nil
}

// A point is where a connection is cut, and how.
type point struct {
	n   int
	cut func(*net.TCPConn)
}

// someOf returns points up to n bytes, so many apart, another selection for each
// kernel that the tests run on; or all of them.
func someOf(n, apart int) (points []point) {
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	number := 0
	for _, b := range release {
		number += int(b)
	}
	for i := range n + 1 {
		for j, how := range cuts {
			if harness.Long() || (i+j*apart)%(2*apart) == number%(2*apart) {
				points = append(points, point{i, how.cut})
			}
		}
	}
	return points
}

// atEach does something for each point, some at a time.
func atEach(t testing.TB, points []point, do func(p point)) {
	t.Helper()
	harness.InParallel(t, len(points), 8, func(i int) { do(points[i]) })
}

// A client may go away after any byte of the handshake, in either direction, and
// of the request.
func TestCutHandshake(t *testing.T) {
	harness.OnKernel(t, "7.2")
	harness.RequireKernelTLS(t)
	c, f := harness.StartWithFile(t, harness.Large, harness.OffloadSite("all"))
	c.WantFile(t, "/f", f)
	before := harness.TraceOf(t, c)
	connections := 0
	for _, version := range harness.TLSVersions {
		for _, resumed := range []bool{false, true} {
			sessions := &harness.Session{Held: true}
			config := c.Resuming(t, version, sessions)
			config.CurvePreferences = []tls.CurveID{tls.X25519} // a short ClientHello
			if resumed {
				harness.WantOffloaded(t, c, config, "/f", f, false)
			} else {
				config.ClientSessionCache = nil
			}
			shake := func(in, out int, cut func(*net.TCPConn)) *cutConn {
				return shake(t, c, config, resumed, &cutConn{in: in, out: out, cut: cut})
			}
			whole := shake(unlimited, unlimited, cuts[0].cut)
			// The server does not see how much of what it sends is read.
			fromClient, fromServer := someOf(whole.wrote, 7), someOf(whole.read, 28)
			atEach(t, fromClient, func(p point) { shake(unlimited, p.n, p.cut) })
			atEach(t, fromServer, func(p point) { shake(p.n, unlimited, p.cut) })
			connections += len(fromClient) + len(fromServer)
			t.Logf("%s, resumed %v: %d bytes from the client, %d from the server",
				tls.VersionName(version), resumed, whole.wrote, whole.read)
		}
	}
	harness.WantNothingLeft(t, c, before)
	c.WantFile(t, "/f", f)
	harness.WantNothingLeft(t, c, before)
	t.Logf("%d connections", connections)
	results.Fault(t, "Clients", "client leaves during the handshake",
		"RST or FIN after so many bytes from the client, or from the server; TLS 1.2 and 1.3, new and resumed",
		"nothing is left, others are served")
}

// shake shakes hands and sends a request over a connection that is cut.
func shake(t testing.TB, c *harness.Caddy, config *tls.Config, resumed bool, conn *cutConn) *cutConn {
	var err error
	if conn.TCPConn, err = c.TryTCP(); err != nil {
		t.Error(err)
		return conn
	}
	defer conn.Close()
	client := tls.Client(conn, config)
	if err := client.Handshake(); err != nil {
		return conn
	}
	if client.ConnectionState().DidResume != resumed {
		t.Errorf("resumed: %v, want %v", !resumed, resumed)
	}
	if _, err := io.WriteString(client, harness.RequestText("/")); err == nil {
		_, _ = client.Read(make([]byte, 1))
	}
	return conn
}

// A client may go away at any point of a body.
func TestCutBody(t *testing.T) {
	harness.OnKernel(t, "6.1")
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	f := c.Root.AddFile(t, "f", 3<<20)
	small := c.Root.AddFile(t, "small", harness.Large)
	c.Start(t, harness.OffloadSite("all"))
	c.WantFile(t, "/small", small)
	before, connections := harness.TraceOf(t, c), c.Metrics(t)
	bystander := harness.StartDownload(t, c.Site, "/f")
	// Bytes of all that the server sends: the handshake takes about 1,000,
	// the records of a body 16,406 each.
	step := 7999
	if harness.Long() {
		step = 199
	}
	var points []point
	for n, i := 1300, 0; n < int(f.Size); n, i = n+step, i+1 {
		if n > 40_000 {
			step = n
		}
		points = append(points, point{n, cuts[i%2].cut}, point{n + 97, cuts[(i+1)%2].cut})
	}
	for _, protocol := range harness.Protocols {
		atEach(t, points, func(at point) {
			client := c.ClientOver(t, protocol, func() (net.Conn, error) {
				raw, err := c.TryTCP(harness.ReceiveBuffer(64 << 10))
				return &cutConn{TCPConn: raw, in: at.n, out: unlimited, cut: at.cut}, err
			})
			defer client.CloseIdleConnections()
			if p := harness.ReadPartial(client, c.URL("/f")); p.Err == nil || !bytes.HasPrefix(f.Content, p.Got) {
				t.Errorf("%s, cut after %d bytes: %d bytes of the body, %v", protocol, at.n, len(p.Got), p.Err)
			}
		})
	}
	bystander.WantFile(t, f)
	harness.WantNothingLeft(t, c, before)
	c.WantFile(t, "/small", small)
	now := c.Metrics(t)
	failed := now["responses_failed"] - connections["responses_failed"]
	t.Logf("%d points, %d responses have failed", len(points), failed)
	if failed == 0 {
		t.Error("no response has failed: the test shows nothing")
	}
	results.Fault(t, "Clients", "client leaves during a body", "RST or FIN at many points, HTTP/1.1 and HTTP/2",
		"nothing is left, others are served")
}
