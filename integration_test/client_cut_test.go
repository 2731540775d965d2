//go:build linux

package integration_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, unix.ETIMEDOUT) || isTimeout(err) {
			panic("the server does not close its side of a connection that has got FIN")
		}
		_ = conn.Close()
	}},
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// end cuts the connection. c.mu is held.
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
func someOf(t testing.TB, n, apart int) (points []point) {
	t.Helper()
	var name unix.Utsname
	must(t, unix.Uname(&name))
	number := 0
	for _, b := range name.Release {
		number += int(b)
	}
	for i := range n + 1 {
		for j, how := range cuts {
			if long || (i+j*apart)%(2*apart) == number%(2*apart) {
				points = append(points, point{i, how.cut})
			}
		}
	}
	return points
}

// forEachPoint does something for all of them, some at a time.
func forEachPoint(points []point, do func(p point)) {
	next := make(chan point)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for p := range next {
				do(p)
			}
		})
	}
	for _, p := range points {
		next <- p
	}
	close(next)
	all.Wait()
}

// A client may go away after any byte of the handshake, in either direction, and
// of the request.
func TestCutHandshake(t *testing.T) {
	onKernel(t, "7.2")
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", large)
	c.start(t, offloading("all"))
	wantBody(t, c.get(t, "/f"), http.StatusOK, f.digest)
	before := c.trace(t)
	connections := 0
	for _, version := range tlsVersions {
		for _, resumed := range []bool{false, true} {
			sessions := &session{held: true}
			config := c.resuming(t, version, sessions)
			config.CurvePreferences = []tls.CurveID{tls.X25519} // a short ClientHello
			if resumed {
				c.download(t, config, f, false)
			} else {
				config.ClientSessionCache = nil
			}
			// shake shakes hands and sends a request.
			shake := func(in, out int, cut func(*net.TCPConn)) *cutConn {
				raw, err := c.dialWith()
				if err != nil {
					t.Error(err)
					return new(cutConn)
				}
				conn := &cutConn{TCPConn: raw, in: in, out: out, cut: cut}
				defer conn.Close()
				client := tls.Client(conn, config)
				if err := client.Handshake(); err != nil {
					return conn
				}
				if client.ConnectionState().DidResume != resumed {
					t.Errorf("resumed: %v, want %v", !resumed, resumed)
				}
				if _, err := io.WriteString(client, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"); err == nil {
					_, _ = client.Read(make([]byte, 1))
				}
				return conn
			}
			whole := shake(unlimited, unlimited, cuts[0].cut)
			// The server does not see how much of what it sends is read.
			fromClient, fromServer := someOf(t, whole.wrote, 7), someOf(t, whole.read, 28)
			forEachPoint(fromClient, func(p point) { shake(unlimited, p.n, p.cut) })
			forEachPoint(fromServer, func(p point) { shake(p.n, unlimited, p.cut) })
			connections += len(fromClient) + len(fromServer)
			t.Logf("%s, resumed %v: %d bytes from the client, %d from the server",
				tls.VersionName(version), resumed, whole.wrote, whole.read)
		}
	}
	c.nothingLeft(t, before)
	wantBody(t, c.get(t, "/f"), http.StatusOK, f.digest)
	c.nothingLeft(t, before)
	t.Logf("%d connections", connections)
	fault(t, "Clients", "client leaves during the handshake",
		"RST or FIN after so many bytes from the client, or from the server; TLS 1.2 and 1.3, new and resumed",
		"nothing is left, others are served")
}

// A client may go away at any point of a body.
func TestCutBody(t *testing.T) {
	onKernel(t, "6.1")
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", 3<<20)
	small := c.addFile(t, "small", large)
	c.start(t, offloading("all"))
	wantBody(t, c.get(t, "/small"), http.StatusOK, small.digest)
	before, connections := c.trace(t), c.metrics(t)
	bystander := c.startDownload(t, "/f")
	// Bytes of all that the server sends: the handshake takes about 1,000,
	// the records of a body 16,406 each.
	step := 7999
	if long {
		step = 199
	}
	var points []point
	for n, i := 1300, 0; n < int(f.size); n, i = n+step, i+1 {
		if n > 40_000 {
			step = n
		}
		points = append(points, point{n, cuts[i%2].cut}, point{n + 97, cuts[(i+1)%2].cut})
	}
	for _, protocol := range protocols {
		forEachPoint(points, func(at point) {
			client := c.clientOver(t, protocol, func() (net.Conn, error) {
				raw, err := c.dialWith(socketOption{unix.SOL_SOCKET, unix.SO_RCVBUF, 64 << 10})
				return &cutConn{TCPConn: raw, in: at.n, out: unlimited, cut: at.cut}, err
			})
			defer client.CloseIdleConnections()
			if p := read(client, c.url("/f")); p.err == nil || !bytes.HasPrefix(f.content, p.got) {
				t.Errorf("%s, cut after %d bytes: %d bytes of the body, %v", protocol, at.n, len(p.got), p.err)
			}
		})
	}
	wantBody(t, bystander.finish(t), http.StatusOK, f.digest)
	_ = bystander.conn.Close()
	c.nothingLeft(t, before)
	wantBody(t, c.get(t, "/small"), http.StatusOK, small.digest)
	now := c.metrics(t)
	failed := now["responses_failed"] - connections["responses_failed"]
	t.Logf("%d points, %d responses have failed", len(points), failed)
	if failed == 0 {
		t.Error("no response has failed: the test shows nothing")
	}
	fault(t, "Clients", "client leaves during a body", "RST or FIN at many points, HTTP/1.1 and HTTP/2",
		"nothing is left, others are served")
}
