package integration_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// Bodies that a proxy passes on come whole over a connection that is offloaded, in
// the module's own frames over HTTP/2 if their length is known. Those that the
// upstream breaks off never look whole.
func TestProxied(t *testing.T) {
	harness.OnKernel(t, "6.12")
	harness.RequireKernelTLS(t)
	for _, offload := range []string{"large", "all"} {
		t.Run(offload, func(t *testing.T) {
			c := harness.NewCaddy(t)
			f := c.Root.AddFile(t, "f", 64<<20)
			small := c.Root.AddFile(t, "small", harness.Large)
			harness.Upstream(t, c, harness.Bodies(t, f))
			c.Start(t, harness.ProxySites(offload))
			// HTTP/1.1 comes last, because it has connections broken off, which Caddy may
			// count after the test.
			for _, protocol := range []string{harness.HTTP2, harness.HTTP1} {
				t.Run(protocol, func(t *testing.T) { testProxied(t, c, c.ProtocolClient(t, protocol), f, small) })
			}
		})
	}
	results.Fault(t, "Clients", "proxied bodies", "reverse_proxy of known and unknown length, with trailers, by each flush_interval and h2c; HTTP/1.1 and HTTP/2, offloaded before",
		"whole, with their trailers")
	results.Fault(t, "Server life", "An upstream breaks off its response", "reverse_proxy of a known length; HTTP/1.1 and HTTP/2, offloaded before",
		"clients see that it is not whole, as with stock Caddy; over HTTP/2 the other streams go on")
}

// testProxied asks for the bodies that an upstream has, over one connection.
func testProxied(t *testing.T, c *harness.Caddy, client *http.Client, f, small harness.File) {
	t.Helper()
	harness.Warm(t, c, client, "/small", small)
	before := c.Metrics(t)
	get := func(path string, n int64) harness.Response {
		t.Helper()
		resp := harness.Get(t, client, c.URL(path))
		harness.WantBody(t, resp, http.StatusOK, f.Part(0, n))
		return resp
	}
	for _, way := range []string{"/proxied", "/now", "/h2c"} {
		for _, n := range []int64{200_000, harness.MinSize, harness.MinSize - 1} {
			get(fmt.Sprintf("%s/known/%d", way, n), n)
		}
		get(way+"/unknown", harness.Large)
		resp := get(way+"/trailers", harness.Large)
		lost := resp.ProtoMajor == 1 && resp.ContentLength >= 0 // HTTP/1.1 has them in chunked bodies only
		if got := resp.Trailer.Get("Sum"); got != "all of it" && !lost {
			t.Errorf("%s: the trailer is %q", way, got)
		}
	}
	get("/proxied/known/"+fmt.Sprint(f.Size), f.Size)
	get("/h2c/known/"+fmt.Sprint(f.Size), f.Size)
	c.Expect(t, before, harness.Counts{}) // no other connection, and nothing by sendfile
	wantBrokenOff(t, c, client, f.Content[:harness.Large])
}

// wantBrokenOff asks for a body that the upstream breaks off, here and without the
// module.
func wantBrokenOff(t *testing.T, c *harness.Caddy, client *http.Client, content []byte) {
	t.Helper()
	promised := harness.FileOf(content)
	for _, way := range []string{"/proxied", "/now", "/h2c"} {
		result := harness.ReadPartial(client, c.URL(way+"/short")).Is(promised)
		stock := harness.ReadPartial(client, c.Stock().URL(way+"/short")).Is(promised)
		if !strings.HasPrefix(result, harness.Beginning) || withoutNumbers(result) != withoutNumbers(stock) {
			t.Errorf("%s: %s; without the module %s", way, result, stock)
		}
		harness.WantBody(t, harness.Get(t, client, c.URL("/protocol")), http.StatusOK, harness.DigestOf([]byte(harness.ProtocolOf(client))))
	}
}

// withoutNumbers returns a text without its digits: streams have numbers.
func withoutNumbers(text string) string {
	return strings.Map(func(r rune) rune {
		if '0' <= r && r <= '9' {
			return -1
		}
		return r
	}, text)
}

// A connection that has carried nothing yet is offloaded for a proxied body of known
// length over HTTP/2 only, and for one that the HTTP/2 server sends not at all.
func TestProxiedFirst(t *testing.T) {
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	f := c.Root.AddFile(t, "f", 1<<20)
	harness.Upstream(t, c, harness.Bodies(t, f))
	c.Start(t, harness.ProxySites("large"))
	for _, test := range []struct {
		protocol, path string
		size           int64
		want           harness.Counts
	}{
		{harness.HTTP2, "/proxied/known/1000000", 1_000_000, harness.Counts{"connections:offloaded": 1}},
		{harness.HTTP2, fmt.Sprintf("/proxied/known/%d", harness.MinSize), harness.MinSize, harness.Counts{"connections:offloaded": 1}},
		{harness.HTTP2, fmt.Sprintf("/proxied/known/%d", harness.MinSize-1), harness.MinSize - 1, harness.Copied()},
		{harness.HTTP2, "/proxied/unknown", harness.Large, harness.Copied()},
		{harness.HTTP1, "/proxied/known/1000000", 1_000_000, harness.Copied()},
	} {
		t.Run(test.protocol+test.path, func(t *testing.T) {
			before, client := c.Metrics(t), c.ProtocolClient(t, test.protocol)
			harness.WantBody(t, harness.Get(t, client, c.URL(test.path)), http.StatusOK, f.Part(0, test.size))
			client.CloseIdleConnections()
			c.Expect(t, before, test.want)
		})
	}
}

// Whoever sends events waits for nothing: each arrives before the next is sent.
func TestProxiedEvents(t *testing.T) {
	harness.RequireKernelTLS(t)
	const events = 5
	c := harness.NewCaddy(t)
	f := c.Root.AddFile(t, "f", harness.Large)
	next := make(chan struct{})
	harness.Upstream(t, c, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if typ := r.URL.Query().Get("type"); typ != "" {
			w.Header().Set("Content-Type", typ)
		}
		if length := r.URL.Query().Get("length"); length != "" {
			w.Header().Set("Content-Length", length)
		}
		for i := range events {
			_, _ = fmt.Fprintf(w, "data: %-30000d\n\n", i)
			_ = http.NewResponseController(w).Flush()
			select {
			case <-next:
			case <-r.Context().Done():
				t.Error("the client has gone")
				return
			}
		}
	}))
	c.Start(t, harness.ProxySites("large"))
	// 150,040 bytes: those of a length that is known go out in the module's own frames.
	length := fmt.Sprint(events * len(fmt.Sprintf("data: %-30000d\n\n", 0)))
	c.ForEachProtocol(t, func(t *testing.T, client *http.Client) {
		harness.Warm(t, c, client, "/f", f)
		before := c.Metrics(t)
		for _, path := range []string{
			"/proxied/?type=text/event-stream", "/now/?type=text/plain", "/h2c/?type=text/event-stream",
			"/now/?type=text/plain&length=" + length,
		} {
			resp, err := client.Get(c.URL(path))
			testutil.Must(t, err)
			reader := bufio.NewReader(resp.Body)
			for i := range events {
				for _, want := range []string{fmt.Sprintf("data: %-30000d\n", i), "\n"} {
					if line, err := reader.ReadString('\n'); err != nil || line != want {
						t.Fatalf("%s: event %d has %d bytes, %v", path, i, len(line), err)
					}
				}
				next <- struct{}{}
			}
			if n, err := io.Copy(io.Discard, reader); n > 0 || err != nil {
				t.Errorf("%s: then come %d bytes, %v", path, n, err)
			}
			_ = resp.Body.Close()
		}
		c.Expect(t, before, harness.Counts{})
	})
}
