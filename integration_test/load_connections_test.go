package integration_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// Every connection is in the kernel from its first response on, and may be idle, or not
// read from, for long. The log would be long too.
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
			write_idle 1h
		}
	}
	log {
		exclude http.handlers http.log http.stdlib caddy.listeners
	}
}
` + harness.FileSite

// goroutineKept is how many bytes Go keeps for good of a goroutine that has ended,
// for another one.
const goroutineKept = 512

// loads are connections that wait, and downloads that are under way.
type loads struct {
	idle   []*harness.Visit
	active []*loadedDownload
	small  harness.File
}

// A loadedDownload is a download of which the beginning has come.
type loadedDownload struct {
	client *http.Client
	body   io.ReadCloser
	sum    *harness.Digester
}

// openLoads opens so many connections of each kind, half of them of HTTP/1.1 and half
// of HTTP/2.
func openLoads(t testing.TB, c *harness.Caddy, configs []*tls.Config, idle, active int, small harness.File) *loads {
	t.Helper()
	l := &loads{make([]*harness.Visit, idle), make([]*loadedDownload, active), small}
	harness.InParallel(t, idle, 16, func(i int) {
		l.idle[i] = harness.NewVisit(t, c.Site, configs[i%2])
		l.idle[i].WantFile("/small", small)
	})
	harness.InParallel(t, active, 16, func(i int) {
		d := &loadedDownload{client: c.NarrowClient(t, configs[i%2]), sum: harness.NewDigester()}
		resp, err := d.client.Get(c.URL("/f"))
		testutil.Must(t, err)
		d.body = resp.Body
		_, err = io.CopyN(d.sum, d.body, 10_000)
		testutil.Must(t, err)
		l.active[i] = d
	})
	return l
}

// finish reads the downloads to their ends, asks the idle connections once more, and
// closes all.
func (l *loads) finish(t testing.TB, f harness.File) {
	t.Helper()
	harness.InParallel(t, len(l.active), len(l.active), func(i int) {
		d := l.active[i]
		_, err := io.Copy(d.sum, d.body)
		if got := d.sum.Digest(); got != f.Digest || err != nil {
			t.Errorf("download %d has %v, %v; want %v", i, got, err, f.Digest)
		}
		_ = d.body.Close()
		d.client.CloseIdleConnections()
	})
	harness.InParallel(t, len(l.idle), 16, func(i int) { l.idle[i].WantFile("/small", l.small) })
	for _, v := range l.idle {
		v.Leave()
	}
}

// Many connections that wait, and many downloads at the same time, all of them in
// the kernel, don't harm each other, and leave nothing behind.
func TestLoadConnections(t *testing.T) {
	harness.OnKernel(t, "6.12")
	harness.RequireKernelTLS(t)
	idle, active := harness.ShortOrLong(300, 10_000), harness.ShortOrLong(50, 1_000)
	c := harness.NewCaddy(t)
	small := c.Root.AddFile(t, "small", 1000)
	f := c.Root.AddFile(t, "f", 300_000)
	c.Start(t, loadSite)
	configs := []*tls.Config{c.Quick(t, harness.HTTP1), c.Quick(t, harness.HTTP2)}
	// What is made once is made before it is counted.
	openLoads(t, c, configs, 4, 4, small).finish(t, f)
	testutil.Eventually(t, "the first connections are gone", func() error {
		if n := harness.OffloadedNow(t, c); n > 0 {
			return fmt.Errorf("%d are left", n)
		}
		return nil
	})

	before, counted := harness.ResourcesOf(t, c), c.Metrics(t)
	l := openLoads(t, c, configs, idle, active, small)
	if n := harness.OffloadedNow(t, c); n != int64(idle+active) {
		t.Errorf("%d connections are offloaded, want %d", n, idle+active)
	}
	harness.WantInKernel(t, before.Kernel, int64(idle+active))
	if n := c.Metrics(t)["sendfile_bytes"] - counted["sendfile_bytes"]; n >= int64(active)*f.Size {
		t.Error("all files were sent before they were read: the test shows nothing")
	}
	meanwhile := harness.ResourcesOf(t, c)
	t.Logf("meanwhile: %+v", meanwhile)
	l.finish(t, f)
	c.Expect(t, counted, harness.SentTimes(int64(idle+active), int64(active), int64(active)*f.Size))
	before.Heap += int64(meanwhile.Goroutines) * goroutineKept
	harness.WantReturned(t, c, before)
	results.Fault(t, "Load", "Many idle and many active connections", "half HTTP/1.1, half HTTP/2, all offloaded; 10,000 idle and 1,000 active in the long form",
		"downloads whole, the idle serve on, everything is given back")
}
