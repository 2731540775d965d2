package integration_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
)

// Many downloads of all sizes at the same time are all right.
func TestLoadDownloads(t *testing.T) {
	harness.OnKernel(t, "7.2")
	harness.RequireKernelTLS(t)
	n := harness.ShortOrLong(100, 1000)
	c := harness.NewCaddy(t)
	var files []harness.File
	for i, size := range []int64{1000, harness.MinSize - 1, harness.MinSize, harness.Large, 500_000, 300_000, 0, 1, harness.MinSize + 1, harness.Large + 1} {
		files = append(files, c.Root.AddFile(t, fmt.Sprint(i), size))
	}
	c.Start(t, strings.Replace(loadSite, "offload all", "offload large", 1))
	for _, protocol := range harness.Protocols {
		t.Run(protocol, func(t *testing.T) { testLoadDownloads(t, c, protocol, files, n) })
	}
	results.Fault(t, "Load", "Many downloads in parallel", "sizes from 0 to 500,000 bytes over HTTP/1.1 and HTTP/2; 1,000 in the long form",
		"all whole, everything is given back")
}

func testLoadDownloads(t *testing.T, c *harness.Caddy, protocol string, files []harness.File, n int) {
	// Over HTTP/1.1 each download has a connection; over HTTP/2 as many share one as
	// there are files.
	share := 1
	if protocol == harness.HTTP2 {
		share = len(files)
	}
	config := c.Quick(t, protocol)
	counted := c.Metrics(t)
	first := c.Client(t, config.Clone()) // has a session that others resume
	harness.WantFile(t, first, c.URL("/0"), files[0])
	first.CloseIdleConnections()
	c.Expect(t, counted, harness.Copied())
	var clients []*http.Client
	for range n / share {
		clients = append(clients, c.Client(t, config.Clone()))
	}
	before := harness.ResourcesOf(t, c)
	counted = c.Metrics(t)
	if share > 1 {
		for _, client := range clients { // or each of the first requests makes a connection
			harness.WantFile(t, client, c.URL("/0"), files[0])
		}
	}
	var all sync.WaitGroup
	for i := range n {
		f, client := files[i%len(files)], clients[i/share]
		all.Go(func() {
			resp, err := harness.Try(t, client, http.MethodGet, c.URL(fmt.Sprintf("/%d", i%len(files))))
			if err != nil {
				t.Errorf("download %d: %v", i, err)
				return
			}
			harness.WantBody(t, resp, http.StatusOK, f.Digest)
			if got := resp.ProtoMajor; (got == 2) != (protocol == harness.HTTP2) {
				t.Errorf("download %d has come over %s", i, resp.Proto)
			}
		})
	}
	all.Wait()
	for _, client := range clients {
		client.CloseIdleConnections()
	}
	c.Expect(t, counted, loadCounts(files, n, share))
	harness.WantReturned(t, c, before)
}

// loadCounts is what so many downloads change, of which some share a connection.
func loadCounts(files []harness.File, n, share int) harness.Counts {
	want := harness.Counts{}
	if share > 1 {
		want["connections:offloaded"] = int64(n / share)
	}
	for i := range n {
		outcome := "connections:not_needed"
		if f := files[i%len(files)]; f.Size >= harness.MinSize {
			outcome = "connections:offloaded"
			want.AddSent(f.Size)
		}
		if share == 1 {
			want[outcome]++
		}
	}
	return want
}
