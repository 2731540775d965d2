//go:build linux

package integration_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// upstream serves at PORT3 what the site is a proxy for, also over HTTP/2 without
// TLS, until the test ends.
func (c *caddy) upstream(t testing.TB, handler http.Handler) *http.Server {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:"+c.getenv("PORT3"))
	must(t, err)
	upstream := &http.Server{Handler: handler, Protocols: new(http.Protocols)}
	upstream.Protocols.SetHTTP1(true)
	upstream.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = upstream.Serve(ln) }()
	t.Cleanup(func() { _ = upstream.Close() })
	return upstream
}

// proxies is a site that is a proxy for the upstream, in three ways.
const proxies = `
(proxies) {
	root {$ROOT}
	respond /protocol "{http.request.proto}"
	handle /proxied/* {
		reverse_proxy 127.0.0.1:{$PORT3}
	}
	handle /now/* {
		reverse_proxy 127.0.0.1:{$PORT3} {
			flush_interval -1
		}
	}
	handle /h2c/* {
		reverse_proxy h2c://127.0.0.1:{$PORT3}
	}
	file_server
}
`

// proxySites has a site with the module, and at PORT2 the same without it.
func proxySites(offload string) string {
	return proxies + `
https://localhost:{$PORT} {
	ktls {
		offload ` + offload + `
	}
	import proxies
}
https://localhost:{$PORT2} {
	import proxies
}`
}

// bodies is what an upstream serves of a file: the last part of the path is how.
func bodies(t testing.TB, f file) http.Handler {
	mux := http.NewServeMux()
	declare := func(w http.ResponseWriter, n int) {
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.Itoa(n))
	}
	mux.HandleFunc("/{way}/known/{size}", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.Atoi(r.PathValue("size"))
		if err != nil {
			t.Error(err)
		}
		declare(w, n)
		_, _ = w.Write(f.content[:n])
	})
	mux.HandleFunc("/{way}/unknown", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(f.content[:100_000])
		_ = http.NewResponseController(w).Flush()
		_, _ = w.Write(f.content[100_000:large])
	})
	mux.HandleFunc("/{way}/short", func(w http.ResponseWriter, _ *http.Request) {
		declare(w, large)
		_, _ = w.Write(f.content[:large-50_000])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	mux.HandleFunc("/{way}/trailers", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Sum")
		if r.ProtoMajor == 2 {
			declare(w, large)
		}
		_, _ = w.Write(f.content[:large])
		w.Header().Set("Sum", "all of it")
	})
	return mux
}

// Bodies that a proxy passes on come whole over a connection that is offloaded, in
// the module's own frames over HTTP/2 if their length is known. Those that the
// upstream breaks off never look whole.
func TestProxied(t *testing.T) {
	onKernel(t, "6.12")
	requireKernelTLS(t)
	for _, offload := range []string{"large", "all"} {
		t.Run(offload, func(t *testing.T) {
			c := newCaddy(t)
			f := c.addFile(t, "f", 64<<20)
			small := c.addFile(t, "small", large)
			c.upstream(t, bodies(t, f))
			c.start(t, proxySites(offload))
			c.forEachProtocol(t, func(t *testing.T, client *http.Client) {
				c.warm(t, client, "/small", small)
				before := c.metrics(t)
				get := func(path string, n int64) response {
					t.Helper()
					resp := do(t, client, http.MethodGet, c.url(path))
					wantBody(t, resp, http.StatusOK, f.part(0, n))
					return resp
				}
				for _, way := range []string{"/proxied", "/now", "/h2c"} {
					for _, n := range []int64{200_000, minSize, minSize - 1} {
						get(fmt.Sprintf("%s/known/%d", way, n), n)
					}
					get(way+"/unknown", large)
					resp := get(way+"/trailers", large)
					lost := resp.ProtoMajor == 1 && resp.ContentLength >= 0 // HTTP/1.1 has them in chunked bodies only
					if got := resp.Trailer.Get("Sum"); got != "all of it" && !lost {
						t.Errorf("%s: the trailer is %q", way, got)
					}
				}
				get("/proxied/known/"+fmt.Sprint(f.size), f.size)
				get("/h2c/known/"+fmt.Sprint(f.size), f.size)
				c.expect(t, before, counts{}) // no other connection, and nothing by sendfile
				c.wantBrokenOff(t, client, f.content[:large])
			})
		})
	}
	fault(t, "Clients", "proxied bodies", "reverse_proxy of known and unknown length, with trailers, by each flush_interval and h2c; HTTP/1.1 and HTTP/2, offloaded before",
		"whole, with their trailers")
	fault(t, "Server life", "An upstream breaks off its response", "reverse_proxy of a known length; HTTP/1.1 and HTTP/2, offloaded before",
		"clients see that it is not whole, as with stock Caddy; over HTTP/2 the other streams go on")
}

// wantBrokenOff asks for a body that the upstream breaks off, here and without the
// module.
func (c *caddy) wantBrokenOff(t *testing.T, client *http.Client, content []byte) {
	t.Helper()
	promised := file{digestOf(content), content}
	for _, way := range []string{"/proxied", "/now", "/h2c"} {
		result := read(client, c.url(way+"/short")).is(promised)
		stock := read(client, c.stock().url(way+"/short")).is(promised)
		if !strings.HasPrefix(result, "its beginning, ") || withoutNumbers(result) != withoutNumbers(stock) {
			t.Errorf("%s: %s; without the module %s", way, result, stock)
		}
		wantBody(t, do(t, client, http.MethodGet, c.url("/protocol")), http.StatusOK, digestOf([]byte(protocolOf(client))))
	}
}

// protocolOf is what requests of a client say.
func protocolOf(client *http.Client) string {
	if client.Transport.(*http.Transport).Protocols.HTTP2() {
		return "HTTP/2.0"
	}
	return "HTTP/1.1"
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
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", 1<<20)
	c.upstream(t, bodies(t, f))
	c.start(t, proxySites("large"))
	for _, test := range []struct {
		protocol, path string
		size           int64
		want           counts
	}{
		{http2.NextProtoTLS, "/proxied/known/1000000", 1_000_000, counts{"connections:offloaded": 1}},
		{http2.NextProtoTLS, fmt.Sprintf("/proxied/known/%d", minSize), minSize, counts{"connections:offloaded": 1}},
		{http2.NextProtoTLS, fmt.Sprintf("/proxied/known/%d", minSize-1), minSize - 1, copied()},
		{http2.NextProtoTLS, "/proxied/unknown", large, copied()},
		{"http/1.1", "/proxied/known/1000000", 1_000_000, copied()},
	} {
		t.Run(test.protocol+test.path, func(t *testing.T) {
			before, client := c.metrics(t), c.protocolClient(t, test.protocol)
			wantBody(t, do(t, client, http.MethodGet, c.url(test.path)), http.StatusOK, f.part(0, test.size))
			client.CloseIdleConnections()
			c.expect(t, before, test.want)
		})
	}
}

// Whoever sends events waits for nothing: each arrives before the next is sent.
func TestProxiedEvents(t *testing.T) {
	requireKernelTLS(t)
	const events = 5
	c := newCaddy(t)
	f := c.addFile(t, "f", large)
	next := make(chan struct{})
	c.upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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
	c.start(t, proxySites("large"))
	// 150,040 bytes: those of a length that is known go out in the module's own frames.
	length := fmt.Sprint(events * len(fmt.Sprintf("data: %-30000d\n\n", 0)))
	c.forEachProtocol(t, func(t *testing.T, client *http.Client) {
		c.warm(t, client, "/f", f)
		before := c.metrics(t)
		for _, path := range []string{
			"/proxied/?type=text/event-stream", "/now/?type=text/plain", "/h2c/?type=text/event-stream",
			"/now/?type=text/plain&length=" + length,
		} {
			resp, err := client.Get(c.url(path))
			must(t, err)
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
		c.expect(t, before, counts{})
	})
}
