package integration_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/sys/unix"
)

// bothSites has a site with the module, and at PORT2 the same without it.
const bothSites = `
https://localhost:{$PORT} {
	ktls {
		offload all
	}
	root {$ROOT}
	file_server
}
` + stockSite

// stock returns Caddy's site without the module.
func (c *caddy) stock() *caddy {
	stock := *c
	stock.port = c.getenv("PORT2")
	return &stock
}

// sameAsStock does something with the site and with the one without the module,
// and fails the test unless the same comes of it.
func (c *caddy) sameAsStock(t testing.TB, do func(c *caddy) string) string {
	t.Helper()
	ours, stock := do(c), do(c.stock())
	if ours != stock {
		t.Errorf("it comes to this: %s; without the module to this: %s", ours, stock)
	}
	return ours
}

// protocols are what ALPN calls them.
var protocols = []string{"http/1.1", http2.NextProtoTLS}

// sysctl sets a parameter of the network, which has to be the test's own.
func sysctl(t testing.TB, name, value string) {
	t.Helper()
	file := filepath.Join("/proc/sys/net", name)
	must(t, os.WriteFile(file, []byte(value), 0))
	got, err := os.ReadFile(file)
	must(t, err)
	if got := strings.Join(strings.Fields(string(got)), " "); got != value {
		t.Fatalf("%s is %s, want %s", name, got, value)
	}
}

// A socketOption is set before the client connects.
type socketOption struct{ level, name, value int }

// dialWith opens a TCP connection to the site.
func (c *caddy) dialWith(options ...socketOption) (*net.TCPConn, error) {
	dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		ctlErr := raw.Control(func(fd uintptr) {
			for _, o := range options {
				err = errors.Join(err, unix.SetsockoptInt(int(fd), o.level, o.name, o.value))
			}
		})
		return errors.Join(ctlErr, err)
	}}
	conn, err := dialer.Dial("tcp", "127.0.0.1:"+c.port)
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// clientOver returns an HTTP client of a protocol with a way to connect.
func (c *caddy) clientOver(t testing.TB, protocol string, dial func() (net.Conn, error)) *http.Client {
	t.Helper()
	config := c.tlsConfig(t)
	config.NextProtos = []string{protocol}
	client := c.client(t, config)
	client.Transport.(*http.Transport).DialContext = func(context.Context, string, string) (net.Conn, error) { return dial() }
	return client
}

// A partial is how a download has ended.
type partial struct {
	got []byte
	err error
}

// read gets a file, or what comes of it.
func read(client *http.Client, url string) partial {
	resp, err := client.Get(url)
	if err != nil {
		return partial{nil, err}
	}
	defer resp.Body.Close()
	var got bytes.Buffer
	_, err = io.Copy(&got, resp.Body)
	return partial{got.Bytes(), err}
}

// is says what has come of a file: all of it, or its beginning and an error.
func (p partial) is(f file) string {
	switch {
	case p.err == nil && digestOf(p.got) == f.digest:
		return "whole"
	case p.err == nil:
		return fmt.Sprintf("%d bytes as if they were all", len(p.got))
	case !bytes.HasPrefix(f.content, p.got):
		return fmt.Sprintf("%d bytes that are not the file's, %v", len(p.got), p.err)
	}
	return "its beginning, " + plain(p.err)
}

// plain returns an error without addresses.
func plain(err error) string {
	var op *net.OpError
	if errors.As(err, &op) {
		err = fmt.Errorf("%s: %w", op.Op, op.Err)
	}
	return err.Error()
}

// A pacedConn reads slowly.
type pacedConn struct {
	net.Conn
	most  int // bytes at a time
	pause time.Duration
}

func (c *pacedConn) Read(p []byte) (int, error) {
	time.Sleep(c.pause)
	return c.Conn.Read(p[:min(len(p), c.most)])
}

// A stallingConn reads no more after some bytes, until it is told to go on.
type stallingConn struct {
	net.Conn
	rest    int
	reached chan struct{} // closed when it stops
	goOn    chan struct{}
	stopped bool
}

func (c *stallingConn) Read(p []byte) (int, error) {
	if c.rest > 0 {
		p = p[:min(len(p), c.rest)]
	} else if !c.stopped {
		c.stopped = true
		close(c.reached)
		<-c.goOn
	}
	n, err := c.Conn.Read(p)
	c.rest -= n
	return n, err
}

// A stalled is a download that stalls.
type stalled struct {
	site            *caddy
	protocol, query string
	client          *http.Client
	reached, goOn   chan struct{}
	result          chan string
}

// timeouts returns bothSites with these timeouts.
func timeouts(options string) string {
	return serverTimeouts("all", options) + strings.NewReplacer("file_server", "file_server\n\tlog").Replace(bothSites)
}

// serverTimeouts are global options for two servers, the second without the module,
// with these timeouts.
func serverTimeouts(offload, options string) string {
	return `{
	servers 127.0.0.1:{$PORT} {
		listener_wrappers {
			ktls {
				offload ` + offload + `
			}
		}
		timeouts {
			` + options + `
		}
	}
	servers 127.0.0.1:{$PORT2} {
		timeouts {
			` + options + `
		}
	}
}
`
}

// handled waits for the line of the access log of a request, and returns how
// long the handler has taken.
func (c *caddy) handled(t testing.TB, query string) (took time.Duration) {
	t.Helper()
	eventually(t, "the request "+query+" is in the log", func() error {
		for _, entry := range c.entries("handled request") {
			request, _ := entry["request"].(map[string]any)
			if uri, _ := request["uri"].(string); strings.HasSuffix(uri, query) {
				seconds, _ := entry["duration"].(float64)
				took = time.Duration(seconds * float64(time.Second))
				return nil
			}
		}
		return errors.New("it is not")
	})
	return took
}

// Send buffers that hold less than one part of a body: so the server waits for
// the reader, in the middle of a sendfile.
const smallBuffers = "4096 16384 32768"

// sameEnd tells whether a cut looks to the client as that of stock Caddy. After a
// write that was cut in the middle of a record crypto/tls still writes an alert: if
// that happens to complete the record, stock's client can't open it.
func sameEnd(got, stock string) bool {
	return got == stock ||
		got == "its beginning, unexpected EOF" && stock == "its beginning, local error: tls: bad record MAC"
}

// forEachReader has both sites read over both protocols, all at the same time, and
// returns what comes of it for each protocol, which has to be as with stock Caddy.
func (c *caddy) forEachReader(t *testing.T, read func(c *caddy, protocol, query string) string) map[string]string {
	t.Helper()
	var mu sync.Mutex
	var all sync.WaitGroup
	results, stock := map[string]string{}, map[string]string{}
	readInto := func(results map[string]string, site *caddy, protocol string) {
		result := read(site, protocol, fmt.Sprintf("?%s=%s", protocol, site.port))
		mu.Lock()
		defer mu.Unlock()
		results[protocol] = result
	}
	for _, protocol := range protocols {
		all.Go(func() { readInto(results, c, protocol) })
		all.Go(func() { readInto(stock, c.stock(), protocol) })
	}
	all.Wait()
	for protocol, result := range results {
		if !sameEnd(result, stock[protocol]) {
			t.Errorf("%s: %s; without the module %s", protocol, result, stock[protocol])
		}
	}
	return results
}

func TestSlowReaders(t *testing.T) {
	onKernel(t, "6.12")
	if !inOwnNetwork(t) {
		return
	}
	sysctl(t, "ipv4/tcp_wmem", smallBuffers)
	slowly := func(t *testing.T, c *caddy, f file, most int, pause time.Duration) (map[string]string, func(protocol string, site *caddy) time.Duration) {
		results := c.forEachReader(t, func(c *caddy, protocol, query string) string {
			return read(c.clientOver(t, protocol, func() (net.Conn, error) {
				conn, err := c.dialWith(socketOption{unix.SOL_SOCKET, unix.SO_RCVBUF, 16 << 10})
				return &pacedConn{Conn: conn, most: most, pause: pause}, err
			}), c.url("/f"+query)).is(f)
		})
		return results, func(protocol string, site *caddy) time.Duration {
			return c.handled(t, fmt.Sprintf("?%s=%s", protocol, site.port))
		}
	}

	t.Run("progress", func(t *testing.T) {
		const idle = 5 * time.Second
		size, most, pause := int64(1<<20), 8<<10, 50*time.Millisecond
		c := newCaddy(t)
		f := c.addFile(t, "f", size)
		c.start(t, timeouts("write_idle 5s"))
		before := c.metrics(t)
		results, took := slowly(t, c, f, most, pause)
		for protocol, result := range results {
			if result != "whole" {
				t.Errorf("%s: %s", protocol, result)
			}
			if took := took(protocol, c); took <= idle {
				t.Errorf("%s: the handler has taken %v: the test shows nothing", protocol, took)
			}
		}
		c.expect(t, before, counts{"connections:offloaded": 2, "responses:sendfile": 2, "sendfile_bytes": 2 * size})
		fault(t, "Clients", "slow reader", "reads steadily, for longer than write_idle", "whole, as with stock Caddy")
	})

	t.Run("write timeout", func(t *testing.T) {
		const limit = 2 * time.Second
		c := newCaddy(t)
		f := c.addFile(t, "f", huge)
		c.start(t, timeouts("write 2s"))
		before := c.metrics(t)
		results, took := slowly(t, c, f, 8<<10, 50*time.Millisecond)
		for protocol, result := range results {
			if !strings.HasPrefix(result, "its beginning, ") {
				t.Errorf("%s: %s", protocol, result)
			}
			for _, site := range []*caddy{c, c.stock()} {
				if took := took(protocol, site); took < limit {
					t.Errorf("%s: cut after %v, want %v", protocol, took, limit)
				}
			}
			t.Logf("%s: %s", protocol, result)
		}
		c.expect(t, before, counts{
			"connections:offloaded": 2, "responses:sendfile": 2, "responses_failed": 2, "sendfile_bytes": anyNumber,
		})
		fault(t, "Clients", "slow reader", "reads for longer than the timeout write", "cut, and visibly so, as with stock Caddy")
	})

	t.Run("stalled", func(t *testing.T) {
		const idle = 2 * time.Second
		c := newCaddy(t)
		f := c.addFile(t, "f", huge)
		small := c.addFile(t, "small", 1000)
		c.start(t, timeouts("write_idle 2s"))
		before := c.metrics(t)
		// begin begins a download that stalls.
		begin := func(c *caddy, protocol string) *stalled {
			s := &stalled{site: c, protocol: protocol, query: fmt.Sprintf("?%s=%s", protocol, c.port),
				reached: make(chan struct{}), goOn: make(chan struct{}), result: make(chan string, 1)}
			s.client = c.clientOver(t, protocol, func() (net.Conn, error) {
				conn, err := c.dialWith(socketOption{unix.SOL_SOCKET, unix.SO_RCVBUF, 16 << 10})
				return &stallingConn{Conn: conn, rest: 100_000, reached: s.reached, goOn: s.goOn}, err
			})
			go func() { s.result <- read(s.client, c.url("/f"+s.query)).is(f) }()
			<-s.reached
			return s
		}
		// The handler of HTTP/2 returns only when the reader goes on. The other
		// tells when its time is up.
		streams := []*stalled{begin(c, protocols[1]), begin(c.stock(), protocols[1])}
		connections := []*stalled{begin(c, protocols[0]), begin(c.stock(), protocols[0])}
		for _, s := range connections {
			if took := c.handled(t, s.query); took < idle {
				t.Errorf("%s: cut after %v, want %v", s.query, took, idle)
			}
		}
		for _, both := range [][]*stalled{connections, streams} {
			var results []string
			for _, s := range both {
				close(s.goOn)
				result := <-s.result
				if s.protocol == http2.NextProtoTLS {
					result += "; then, on the same connection, " + read(s.client, s.site.url("/small")).is(small)
				}
				results = append(results, result)
			}
			if !sameEnd(results[0], results[1]) || !strings.HasPrefix(results[0], "its beginning, ") {
				t.Errorf("%s; without the module %s", results[0], results[1])
			}
			t.Log(results[0])
		}
		c.expect(t, before, counts{
			"connections:offloaded": 2, "responses:sendfile": 2, "responses_failed": 2, "sendfile_bytes": anyNumber,
		})
		fault(t, "Clients", "stalled reader", "reads no more in the middle of a sendfile, for longer than write_idle",
			"cut as by stock Caddy: HTTP/1.1 the connection, HTTP/2 the stream")
	})

	if !long {
		return
	}
	t.Run("1 KiB/s", func(t *testing.T) {
		size := int64(200 << 10)
		c := newCaddy(t)
		f := c.addFile(t, "f", size)
		c.start(t, timeouts("write_max_chunk 16KiB"))
		before := c.metrics(t)
		results, _ := slowly(t, c, f, 1<<10, time.Second)
		for protocol, result := range results {
			if result != "whole" {
				t.Errorf("%s: %s", protocol, result)
			}
		}
		c.expect(t, before, counts{"connections:offloaded": 2, "responses:sendfile": 2, "sendfile_bytes": 2 * size})
	})
}

// Whatever the buffers, windows and segments are, bodies arrive whole.
func TestNetworks(t *testing.T) {
	onKernel(t, "6.1")
	if !inOwnNetwork(t) {
		return
	}
	c := newCaddy(t)
	f := c.addFile(t, "f", 2<<20)
	c.start(t, offloading("all"))
	receive := func(n int) socketOption { return socketOption{unix.SOL_SOCKET, unix.SO_RCVBUF, n} }
	segment := func(n int) socketOption { return socketOption{unix.IPPROTO_TCP, unix.TCP_MAXSEG, n} }
	// The values that the kernel begins with.
	const wmem, lowat = "4096 16384 4194304", "4294967295"
	for _, network := range []struct {
		what, how   string
		wmem, lowat string
		options     []socketOption
	}{
		{"tiny receive window", "SO_RCVBUF of 4 KiB", wmem, lowat, []socketOption{receive(4 << 10), segment(536)}},
		{"small receive window", "SO_RCVBUF of 32 KiB", wmem, lowat, []socketOption{receive(32 << 10)}},
		{"tiny send buffer", "tcp_wmem of 4 KiB", "4096 4096 4096", lowat, nil},
		{"tcp_notsent_lowat of 1 KiB", "sysctl, MSS of 65,483", wmem, "1024", nil},
		{"tcp_notsent_lowat of 16 KiB", "sysctl, MSS of 65,483", wmem, "16384", nil},
		{"small segments", "TCP_MAXSEG of 536", wmem, lowat, []socketOption{segment(536)}},
		{"large segments", "loopback, MSS of 65,483", wmem, lowat, nil},
		{"all of it tiny", "tcp_wmem and SO_RCVBUF of 4 KiB, tcp_notsent_lowat of 1 KiB, TCP_MAXSEG of 536",
			"4096 4096 4096", "1024", []socketOption{receive(4 << 10), segment(536)}},
	} {
		t.Run(network.what+", "+network.how, func(t *testing.T) {
			sysctl(t, "ipv4/tcp_wmem", network.wmem)
			sysctl(t, "ipv4/tcp_notsent_lowat", network.lowat)
			for _, protocol := range protocols {
				before := c.metrics(t)
				client := c.clientOver(t, protocol, func() (net.Conn, error) { return c.dialWith(network.options...) })
				if result := read(client, c.url("/f")).is(f); result != "whole" {
					t.Errorf("%s: %s", protocol, result)
				}
				client.CloseIdleConnections()
				c.expect(t, before, sentByKernel(f.size))
			}
			fault(t, "Clients", network.what, network.how, "whole")
		})
	}
}
