package integration_test

import (
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil/asynccipher"
)

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

// timeouts returns the site with the module, and the one without, with these timeouts
// and an access log.
func timeouts(options string) string {
	return harness.ServerTimeouts("all", options) + strings.ReplaceAll(harness.BothSites(), "file_server", "file_server\n\tlog")
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

// queryOf marks the requests of a protocol to a site.
func queryOf(protocol string, site harness.Site) string { return protocol + "=" + site.Port }

// handlerTook returns how long the handler of such a request has taken.
func handlerTook(t testing.TB, c *harness.Caddy, protocol string, site harness.Site) time.Duration {
	t.Helper()
	return c.Log.AwaitAccess(t, queryOf(protocol, site)).Took()
}

// readSlowly has both sites read over both protocols, all at the same time, so many
// bytes at once with a pause between. It returns what comes of it for each protocol,
// which has to be as with stock Caddy.
func readSlowly(t *testing.T, c *harness.Caddy, f harness.File, most int, pause time.Duration) map[string]string {
	t.Helper()
	var mu sync.Mutex
	var all sync.WaitGroup
	results, stock := map[string]string{}, map[string]string{}
	readInto := func(results map[string]string, site harness.Site, protocol string) {
		client := site.ClientOver(t, protocol, func() (net.Conn, error) {
			conn, err := site.TryTCP(harness.ReceiveBuffer(16 << 10))
			return &pacedConn{Conn: conn, most: most, pause: pause}, err
		})
		result := harness.ReadPartial(client, site.URL("/f?"+queryOf(protocol, site))).Is(f)
		mu.Lock()
		defer mu.Unlock()
		results[protocol] = result
	}
	for _, protocol := range harness.Protocols {
		all.Go(func() { readInto(results, c.Site, protocol) })
		all.Go(func() { readInto(stock, c.Stock(), protocol) })
	}
	all.Wait()
	for protocol, result := range results {
		if !sameEnd(result, stock[protocol]) {
			t.Errorf("%s: %s; without the module %s", protocol, result, stock[protocol])
		}
		t.Logf("%s: %s", protocol, result)
	}
	return results
}

// cutCounts is what two responses change that were cut in the middle.
func cutCounts() harness.Counts {
	return harness.Counts{
		"connections:offloaded": 2, "responses:sendfile": 2, "responses_failed": 2, "sendfile_bytes": harness.AnyNumber,
	}
}

func TestSlowReaders(t *testing.T) {
	harness.OnKernel(t, "6.12")
	if !harness.InOwnNetwork(t) {
		return
	}
	harness.Sysctl(t, "ipv4/tcp_wmem", smallBuffers)
	t.Run("progress", testProgress)
	t.Run("write timeout", testWriteTimeout)
	t.Run("stalled", testStalled)
	if harness.Long() {
		t.Run("1 KiB/s", testOneKiBPerSecond)
	}
}

func testProgress(t *testing.T) {
	const idle, size = 5 * time.Second, 1 << 20
	c, f := harness.StartWithFile(t, size, timeouts("write_idle 5s"))
	before := c.Metrics(t)
	for protocol, result := range readSlowly(t, c, f, 8<<10, 50*time.Millisecond) {
		if result != "whole" {
			t.Errorf("%s: %s", protocol, result)
		}
		// With an asynchronous cipher the TLS layer takes all that a call gives it, whether
		// there is room or not.
		if took := handlerTook(t, c, protocol, c.Site); took <= idle && os.Getenv(asynccipher.Env) == "" {
			t.Errorf("%s: the handler has taken %v: the test shows nothing", protocol, took)
		}
	}
	c.Expect(t, before, harness.SentTimes(2, 2, 2*size))
	results.Fault(t, "Clients", "slow reader", "reads steadily, for longer than write_idle", "whole, as with stock Caddy")
}

func testWriteTimeout(t *testing.T) {
	const limit = 2 * time.Second
	c, f := harness.StartWithFile(t, harness.Huge, timeouts("write 2s"))
	before := c.Metrics(t)
	for protocol, result := range readSlowly(t, c, f, 8<<10, 50*time.Millisecond) {
		if !strings.HasPrefix(result, harness.Beginning) {
			t.Errorf("%s: %s", protocol, result)
		}
		for _, site := range []harness.Site{c.Site, c.Stock()} {
			if took := handlerTook(t, c, protocol, site); took < limit {
				t.Errorf("%s: cut after %v, want %v", protocol, took, limit)
			}
		}
	}
	c.Expect(t, before, cutCounts())
	results.Fault(t, "Clients", "slow reader", "reads for longer than the timeout write", "cut, and visibly so, as with stock Caddy")
}

// It takes long.
func testOneKiBPerSecond(t *testing.T) {
	const size = 200 << 10
	c, f := harness.StartWithFile(t, size, timeouts("write_max_chunk 16KiB"))
	before := c.Metrics(t)
	for protocol, result := range readSlowly(t, c, f, 1<<10, time.Second) {
		if result != "whole" {
			t.Errorf("%s: %s", protocol, result)
		}
	}
	c.Expect(t, before, harness.SentTimes(2, 2, 2*size))
}

// A stalled is a download that stalls.
type stalled struct {
	site          harness.Site
	protocol      string
	client        *http.Client
	reached, goOn chan struct{}
	result        chan string
}

// stall begins a download that stalls.
func stall(t testing.TB, site harness.Site, protocol string, f harness.File) *stalled {
	t.Helper()
	s := &stalled{
		site: site, protocol: protocol,
		reached: make(chan struct{}), goOn: make(chan struct{}), result: make(chan string, 1),
	}
	s.client = site.ClientOver(t, protocol, func() (net.Conn, error) {
		conn, err := site.TryTCP(harness.ReceiveBuffer(16 << 10))
		return &stallingConn{Conn: conn, rest: 100_000, reached: s.reached, goOn: s.goOn}, err
	})
	go func() { s.result <- harness.ReadPartial(s.client, site.URL("/f?"+queryOf(protocol, site))).Is(f) }()
	<-s.reached
	return s
}

func testStalled(t *testing.T) {
	const idle = 2 * time.Second
	c := harness.NewCaddy(t)
	f := c.Root.AddFile(t, "f", harness.Huge)
	small := c.Root.AddFile(t, "small", 1000)
	c.Start(t, timeouts("write_idle 2s"))
	before := c.Metrics(t)
	both := func(protocol string) []*stalled {
		return []*stalled{stall(t, c.Site, protocol, f), stall(t, c.Stock(), protocol, f)}
	}
	// The handler of HTTP/2 returns only when the reader goes on. The other
	// tells when its time is up.
	streams, connections := both(harness.HTTP2), both(harness.HTTP1)
	for _, s := range connections {
		if took := handlerTook(t, c, s.protocol, s.site); took < idle {
			t.Errorf("%s: cut after %v, want %v", queryOf(s.protocol, s.site), took, idle)
		}
	}
	for _, both := range [][]*stalled{connections, streams} {
		var results []string
		for _, s := range both {
			close(s.goOn)
			result := <-s.result
			if s.protocol == harness.HTTP2 {
				result += "; then, on the same connection, " + harness.ReadPartial(s.client, s.site.URL("/small")).Is(small)
			}
			results = append(results, result)
		}
		if !sameEnd(results[0], results[1]) || !strings.HasPrefix(results[0], harness.Beginning) {
			t.Errorf("%s; without the module %s", results[0], results[1])
		}
		t.Log(results[0])
	}
	c.Expect(t, before, cutCounts())
	results.Fault(t, "Clients", "stalled reader", "reads no more in the middle of a sendfile, for longer than write_idle",
		"cut as by stock Caddy: HTTP/1.1 the connection, HTTP/2 the stream")
}
