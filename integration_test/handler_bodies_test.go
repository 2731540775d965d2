package integration_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
)

// frameSites has a site for each way to answer, with the module and, at PORT2,
// without it. The access log has the module's placeholders.
const frameSites = `
(frames) {
	log
	log_append ktls_status {http.ktls.status}
	log_append ktls_bytes {http.ktls.sendfile_bytes}
	root {$ROOT}
	templates /page.html
	encode /packed/* gzip
	header /respond Content-Length LENGTH
	respond /respond TEXT
	handle_path /status/* {
		file_server {
			status 404
		}
	}
	handle_path /packed/* {
		file_server
	}
	reverse_proxy /proxied/* 127.0.0.1:{$PORT3}
	file_server
	handle_errors 404 {
		rewrite /error.html
		file_server
	}
}
https://localhost:{$PORT} {
	ktls
	import frames
}
https://localhost:{$PORT2} {
	import frames
}`

// Whatever answers, the response over a connection that is offloaded is the one of
// stock Caddy, and so is what the access log says of it, with Caddy's idle timeouts
// and without.
func TestBodiesLikeStock(t *testing.T) {
	harness.OnKernel(t, "6.1")
	harness.RequireKernelTLS(t)
	for _, test := range []struct{ offload, idle string }{
		{"large", "write_idle 1m"}, {"all", "write_idle -1s"}, {"large", "write_max_chunk 1GiB"},
	} {
		t.Run(test.offload+", "+test.idle, func(t *testing.T) { testBodiesLikeStock(t, test.offload, test.idle) })
	}
	results.Fault(t, "Clients", "responses of all kinds over an offloaded connection",
		"file_server with status, several ranges, handle_errors, templates, encode, respond, reverse_proxy, HEAD, 304; HTTP/1.1 and HTTP/2; with and without write_idle",
		"the same as from stock Caddy, also in the access log")
}

// A likeStock is a request, and what its response has to be.
type likeStock struct {
	name, method, path string
	headers            []string
	status             int
	size               int64 // of the body; AnyNumber if the test can't foretell it
	sent               int64 // by sendfile
	own                bool  // in frames of the module's own, over HTTP/2
}

// respondText is what /respond answers.
var respondText = strings.Repeat("respond", 30_000)

// likeStockTests need files f.bin, of this size, and some of harness.Large bytes.
func likeStockTests(size int64) []likeStock {
	return []likeStock{
		{"file", "GET", "/f.bin", nil, 200, size, size, true},
		{"range", "GET", "/f.bin", []string{"Range", "bytes=1-300000"}, 206, 300_000, 300_000, true},
		{"several ranges", "GET", "/f.bin", []string{"Range", "bytes=0-299999,400000-799999"}, 206, harness.AnyNumber, 0, true},
		{"HEAD", "HEAD", "/f.bin", nil, 200, 0, 0, false},
		{"304", "GET", "/f.bin", []string{"If-Modified-Since", "Fri, 01 Jan 2100 00:00:00 GMT"}, 304, 0, 0, false},
		{"412", "GET", "/f.bin", []string{"If-Match", `"another"`}, 412, 0, 0, false},
		{"status", "GET", "/status/f.bin", nil, 404, size, 0, true},
		{"handle_errors", "GET", "/missing", nil, 404, harness.Large, 0, true},
		{"templates", "GET", "/page.html", nil, 200, harness.Large, 0, true},
		{"encode", "GET", "/packed/packed.txt", []string{"Accept-Encoding", "gzip"}, 200, harness.AnyNumber, 0, false},
		{"encode, not accepted", "GET", "/packed/packed.txt", nil, 200, harness.Large, harness.Large, true},
		{"respond", "GET", "/respond", nil, 200, int64(len(respondText)), 0, true},
		{"respond to HEAD", "HEAD", "/respond", nil, 200, 0, 0, false},
		{"proxied", "GET", "/proxied/known/1000000", nil, 200, 1_000_000, 0, true},
		{"proxied, of unknown length", "GET", "/proxied/unknown", nil, 200, harness.Large, 0, false},
		{"file again", "GET", "/f.bin", nil, 200, size, size, true},
	}
}

func testBodiesLikeStock(t *testing.T, offload, idle string) {
	c := harness.NewCaddy(t)
	f := c.Root.AddFile(t, "f.bin", 1<<20)
	for _, name := range []string{"page.html", "error.html", "packed.txt"} {
		c.Root.AddText(t, name, harness.Large)
	}
	harness.Upstream(t, c, harness.Bodies(t, f))
	c.Start(t, harness.ServerTimeouts(offload, idle)+harness.Replaced(t, frameSites, "LENGTH", fmt.Sprint(len(respondText)), "TEXT", respondText))
	tests := likeStockTests(f.Size)
	replies := map[string]harness.Reply{} // by the query
	for _, protocol := range harness.Protocols {
		config := c.TLSConfig(t, protocol)
		before, want := c.Metrics(t), harness.Counts{"connections:offloaded": 1}
		ours, stock := harness.NewVisit(t, c.Site, config), harness.NewVisit(t, c.Stock(), config)
		for i, test := range tests {
			query := fmt.Sprintf("%s/%d", protocol, i)
			a := ours.Ask(test.method, test.path+"?"+query, test.headers...)
			b := stock.Ask(test.method, test.path+"?"+query+"/stock", test.headers...)
			if a != b {
				t.Errorf("%s, %s: %v\nwithout the module: %v", protocol, test.name, a, b)
			}
			if a.Status != test.status || test.size != harness.AnyNumber && a.Body.Size != test.size {
				t.Errorf("%s, %s: %v", protocol, test.name, a)
			}
			replies[query] = a
			// Without Caddy's idle timeouts the module's writer is not below error routes.
			if apart := test.name == "handle_errors" && idle == "write_idle -1s"; test.own && !apart {
				ours.WantOwnFrames()
			}
			if test.sent > 0 {
				want.AddSent(test.sent)
			}
		}
		ours.Leave()
		stock.Leave()
		c.Expect(t, before, want)
	}
	wantLoggedAlike(t, c, tests, replies)
}

// wantLoggedAlike compares the lines of the access log, with those of stock Caddy and
// with what has come.
func wantLoggedAlike(t *testing.T, c *harness.Caddy, tests []likeStock, replies map[string]harness.Reply) {
	t.Helper()
	all := map[string]harness.Access{}
	for _, a := range c.Log.AwaitAccesses(t, 2*len(replies)) {
		all[a.Query()] = a
	}
	for _, protocol := range harness.Protocols {
		for i, test := range tests {
			query := fmt.Sprintf("%s/%d", protocol, i)
			a, ofStock, size := all[query], all[query+"/stock"], replies[query].Body.Size
			if test.method == http.MethodHead && protocol == harness.HTTP2 && a.Size*ofStock.Size == 0 {
				// Go's server does not always see that the header is out before it sees
				// that the stream has ended (writeHeaders of its HTTP/2). Then it says
				// that nothing was written.
				ofStock.Size = a.Size
			}
			if a.Size != ofStock.Size || a.Size != size && test.method != http.MethodHead {
				t.Errorf("%s, %s: the access log says %v bytes, without the module %v; the body has %v",
					protocol, test.name, a.Size, ofStock.Size, size)
			}
			if n := a.Sent(); a.KTLSStatus != "offloaded" || n > test.sent || n < test.sent-harness.NotByKernel {
				t.Errorf("%s, %s: the placeholders say %s and %v bytes, want %d", protocol, test.name, a.KTLSStatus, n, test.sent)
			}
		}
	}
}
