//go:build linux

package integration_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// shortOrLong returns the long form's number if tests are to run in that form.
func shortOrLong(few, many int) int {
	if long {
		return many
	}
	return few
}

// inParallel does something n times, several at once. A test that fails there ends
// afterwards.
func inParallel(t testing.TB, n, atOnce int, do func(i int)) {
	t.Helper()
	var all sync.WaitGroup
	var next atomic.Int64
	for range atOnce {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && !t.Failed(); i = int(next.Add(1)) - 1 {
				do(i)
			}
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// Every connection is in the kernel from its handshake on, and may be idle for
// long. The log would be long too.
const loadSite = `
{
	servers {
		listener_wrappers {
			ktls {
				offload all
			}
		}
		timeouts {
			idle 1h
		}
	}
	log {
		exclude http.handlers http.log http.stdlib caddy.listeners
	}
}
` + site

// protocolsOverTLS are the names by which clients choose a protocol.
var protocolsOverTLS = []string{"http/1.1", "h2"}

// quick returns a client's configuration for short handshakes: with one curve, and
// sessions that are resumed.
func (c *caddy) quick(t testing.TB, protocol string) *tls.Config {
	t.Helper()
	config := c.tlsConfig(t)
	config.NextProtos = []string{protocol}
	config.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	config.CurvePreferences = []tls.CurveID{tls.X25519}
	return config
}

// narrowClient returns a client that takes little at a time, so that the server
// can't finish a response which is not read.
func (c *caddy) narrowClient(t testing.TB, config *tls.Config) *http.Client {
	t.Helper()
	client := c.client(t, config)
	transport := client.Transport.(*http.Transport)
	transport.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10}
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		return narrow(64<<10).DialContext(ctx, network, "127.0.0.1:"+port)
	}
	return client
}

// An idleConn is a connection of HTTP/1.1 or HTTP/2 that is kept.
type idleConn struct {
	tls    *tls.Conn
	reader *bufio.Reader
	http2  *h2Conn
}

func (c *caddy) openIdle(t testing.TB, config *tls.Config) *idleConn {
	t.Helper()
	conn := c.dial(t, config)
	if config.NextProtos[0] == "h2" {
		return &idleConn{http2: newH2Conn(t, conn, h2Windows{65535, 16384, 0, 65535})}
	}
	return &idleConn{tls: conn, reader: bufio.NewReader(conn)}
}

func (i *idleConn) wantFile(t testing.TB, path string, f file) {
	t.Helper()
	if i.http2 != nil {
		i.http2.wantFile(i.http2.get(path), f)
		return
	}
	_, err := fmt.Fprintf(i.tls, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path)
	must(t, err)
	resp, err := http.ReadResponse(i.reader, nil)
	must(t, err)
	body := newDigester()
	_, err = io.Copy(body, resp.Body)
	must(t, err)
	wantBody(t, response{resp, body.digest()}, http.StatusOK, f.digest)
}

func (i *idleConn) close() {
	if i.http2 != nil {
		i.http2.close()
		return
	}
	_ = i.tls.Close()
}

// Many connections that wait, and many downloads at the same time, all of them in
// the kernel, don't harm each other, and leave nothing behind.
func TestLoadConnections(t *testing.T) {
	onKernel(t, "6.12")
	requireKernelTLS(t)
	idle, active := shortOrLong(300, 10_000), shortOrLong(50, 1_000)
	c := newCaddy(t)
	small := c.addFile(t, "small", 1000)
	f := c.addFile(t, "f", 300_000)
	c.start(t, loadSite)
	configs := []*tls.Config{c.quick(t, "http/1.1"), c.quick(t, "h2")}
	open := func(idle, active int) (conns []*idleConn, finish func()) {
		conns = make([]*idleConn, idle)
		inParallel(t, idle, 16, func(i int) {
			conns[i] = c.openIdle(t, configs[i%2])
			conns[i].wantFile(t, "/small", small)
		})
		clients, bodies, digests := make([]*http.Client, active), make([]io.ReadCloser, active), make([]*digester, active)
		inParallel(t, active, 16, func(i int) {
			clients[i], digests[i] = c.narrowClient(t, configs[i%2]), newDigester()
			resp, err := clients[i].Get(c.url("/f"))
			must(t, err)
			bodies[i] = resp.Body
			_, err = io.CopyN(digests[i], resp.Body, 10_000)
			must(t, err)
		})
		return conns, func() {
			inParallel(t, active, active, func(i int) {
				_, err := io.Copy(digests[i], bodies[i])
				if got := digests[i].digest(); got != f.digest || err != nil {
					t.Errorf("download %d has %v, %v; want %v", i, got, err, f.digest)
				}
				_ = bodies[i].Close()
				clients[i].CloseIdleConnections()
			})
		}
	}
	closeAll := func(conns []*idleConn) {
		for _, conn := range conns {
			conn.close()
		}
	}
	warm, finish := open(4, 4) // what is made once is made before it is counted
	finish()
	closeAll(warm)
	eventually(t, "the first connections are gone", func() error {
		if n := c.offloaded(t); n > 0 {
			return fmt.Errorf("%d are left", n)
		}
		return nil
	})

	before, counted := c.resources(t), c.metrics(t)
	conns, finish := open(idle, active)
	if n := c.offloaded(t); n != int64(idle+active) {
		t.Errorf("%d connections are offloaded, want %d", n, idle+active)
	}
	wantInKernel(t, before.kernel, int64(idle+active))
	if n := c.metrics(t)["sendfile_bytes"] - counted["sendfile_bytes"]; n >= int64(active)*f.size {
		t.Error("all files were sent before they were read: the test shows nothing")
	}
	meanwhile := c.resources(t)
	t.Logf("meanwhile: %+v", meanwhile)
	finish()
	inParallel(t, idle, 16, func(i int) { conns[i].wantFile(t, "/small", small) })
	closeAll(conns)
	c.expect(t, counted, counts{
		"connections:offloaded": int64(idle + active),
		"responses:sendfile":    int64(active), "sendfile_bytes": int64(active) * f.size,
	})
	before.heap += int64(meanwhile.goroutines) * goroutineKept
	c.wantReturned(t, before)
	fault(t, "Load", "Many idle and many active connections", "half HTTP/1.1, half HTTP/2, offloaded at the handshake; 10,000 idle and 1,000 active in the long form",
		"downloads whole, the idle serve on, everything is given back")
}

// Many downloads of all sizes at the same time are all right.
func TestLoadDownloads(t *testing.T) {
	onKernel(t, "7.2")
	requireKernelTLS(t)
	n := shortOrLong(100, 1000)
	c := newCaddy(t)
	var files []file
	for i, size := range []int64{1000, minSize - 1, minSize, large, 500_000, 300_000, 0, 1, minSize + 1, large + 1} {
		files = append(files, c.addFile(t, fmt.Sprint(i), size))
	}
	c.start(t, strings.Replace(loadSite, "offload all", "offload large", 1))
	for _, protocol := range protocolsOverTLS {
		t.Run(protocol, func(t *testing.T) {
			// Over HTTP/1.1 each download has a connection; over HTTP/2
			// as many share one as there are files.
			share := 1
			if protocol == "h2" {
				share = len(files)
			}
			config := c.quick(t, protocol)
			counted := c.metrics(t)
			first := c.client(t, config.Clone()) // has a session that others resume
			wantBody(t, do(t, first, http.MethodGet, c.url("/0")), http.StatusOK, files[0].digest)
			first.CloseIdleConnections()
			c.expect(t, counted, copied())
			var clients []*http.Client
			for range n / share {
				clients = append(clients, c.client(t, config.Clone()))
			}
			before := c.resources(t)
			counted = c.metrics(t)
			want := counts{}
			if share > 1 {
				for _, client := range clients { // or each of the first requests makes a connection
					wantBody(t, do(t, client, http.MethodGet, c.url("/0")), http.StatusOK, files[0].digest)
				}
				want["connections:offloaded"] = int64(len(clients))
			}
			var all sync.WaitGroup
			for i := range n {
				f, client := files[i%len(files)], clients[i/share]
				outcome := "connections:not_needed"
				if f.size >= minSize {
					outcome = "connections:offloaded"
					want["responses:sendfile"]++
					want["sendfile_bytes"] += f.size
				}
				if share == 1 {
					want[outcome]++
				}
				all.Go(func() {
					resp, err := try(t, client, http.MethodGet, c.url(fmt.Sprintf("/%d", i%len(files))))
					if err != nil {
						t.Errorf("download %d: %v", i, err)
						return
					}
					wantBody(t, resp, http.StatusOK, f.digest)
					if got := resp.ProtoMajor; (got == 2) != (protocol == "h2") {
						t.Errorf("download %d has come over %s", i, resp.Proto)
					}
				})
			}
			all.Wait()
			for _, client := range clients {
				client.CloseIdleConnections()
			}
			c.expect(t, counted, want)
			c.wantReturned(t, before)
		})
	}
	fault(t, "Load", "Many downloads in parallel", "sizes from 0 to 500,000 bytes over HTTP/1.1 and HTTP/2; 1,000 in the long form",
		"all whole, everything is given back")
}
