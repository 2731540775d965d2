//go:build linux

package integration_test

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/net/http2"
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

// A logged is what the access log has of a request.
type logged struct {
	size   float64
	status string  // the placeholder {http.ktls.status}
	bytes  float64 // the placeholder {http.ktls.sendfile_bytes}
}

// accessLog waits until so many requests are in the access log, and returns what it
// has of them, by their queries.
func (c *caddy) accessLog(t testing.TB, n int) map[string]logged {
	t.Helper()
	all := map[string]logged{}
	eventually(t, "all requests are in the access log", func() error {
		for _, entry := range c.entries("handled request") {
			request, _ := entry["request"].(map[string]any)
			uri, _ := request["uri"].(string)
			_, query, _ := strings.Cut(uri, "?")
			l := logged{status: entry.text("ktls_status")}
			l.size, _ = entry["size"].(float64)
			l.bytes, _ = entry["ktls_bytes"].(float64)
			all[query] = l
		}
		if len(all) != n {
			return fmt.Errorf("%d of %d are", len(all), n)
		}
		return nil
	})
	return all
}

// Whatever answers, the response over a connection that is offloaded is the one of
// stock Caddy, and so is what the access log says of it, with Caddy's idle timeouts
// and without.
func TestBodiesLikeStock(t *testing.T) {
	onKernel(t, "6.1")
	requireKernelTLS(t)
	for _, test := range []struct{ offload, idle string }{
		{"large", "write_idle 1m"}, {"all", "write_idle -1s"}, {"large", "write_max_chunk 1GiB"},
	} {
		t.Run(test.offload+", "+test.idle, func(t *testing.T) { testBodiesLikeStock(t, test.offload, test.idle) })
	}
	fault(t, "Clients", "responses of all kinds over an offloaded connection",
		"file_server with status, several ranges, handle_errors, templates, encode, respond, reverse_proxy, HEAD, 304; HTTP/1.1 and HTTP/2; with and without write_idle",
		"the same as from stock Caddy, also in the access log")
}

func testBodiesLikeStock(t *testing.T, offload, idle string) {
	c := newCaddy(t)
	f := c.addFile(t, "f.bin", 1<<20)
	page, failure, text := c.addText(t, "page.html", large), c.addText(t, "error.html", large), c.addText(t, "packed.txt", large)
	answer := bytes.Repeat([]byte("respond"), 30_000)
	c.upstream(t, bodies(t, f))
	c.start(t, serverTimeouts(offload, idle)+replaced(t, frameSites, "LENGTH", fmt.Sprint(len(answer)), "TEXT", string(answer)))
	const ranges = "bytes=0-299999,400000-799999"
	tests := []struct {
		name, method, path string
		headers            []string
		status             int
		size               int64 // of the body; anyNumber if the test can't foretell it
		sent               int64 // by sendfile
		own                bool  // in frames of the module's own, over HTTP/2
	}{
		{"file", "GET", "/f.bin", nil, 200, f.size, f.size, true},
		{"range", "GET", "/f.bin", []string{"Range", "bytes=1-300000"}, 206, 300_000, 300_000, true},
		{"several ranges", "GET", "/f.bin", []string{"Range", ranges}, 206, anyNumber, 0, true},
		{"HEAD", "HEAD", "/f.bin", nil, 200, 0, 0, false},
		{"304", "GET", "/f.bin", []string{"If-Modified-Since", "Fri, 01 Jan 2100 00:00:00 GMT"}, 304, 0, 0, false},
		{"412", "GET", "/f.bin", []string{"If-Match", `"another"`}, 412, 0, 0, false},
		{"status", "GET", "/status/f.bin", nil, 404, f.size, 0, true},
		{"handle_errors", "GET", "/missing", nil, 404, failure.size, 0, true},
		{"templates", "GET", "/page.html", nil, 200, page.size, 0, true},
		{"encode", "GET", "/packed/packed.txt", []string{"Accept-Encoding", "gzip"}, 200, anyNumber, 0, false},
		{"encode, not accepted", "GET", "/packed/packed.txt", nil, 200, text.size, text.size, true},
		{"respond", "GET", "/respond", nil, 200, int64(len(answer)), 0, true},
		{"respond to HEAD", "HEAD", "/respond", nil, 200, 0, 0, false},
		{"proxied", "GET", "/proxied/known/1000000", nil, 200, 1_000_000, 0, true},
		{"proxied, of unknown length", "GET", "/proxied/unknown", nil, 200, large, 0, false},
		{"file again", "GET", "/f.bin", nil, 200, f.size, f.size, true},
	}
	replies := map[string]reply{}
	for _, protocol := range protocols {
		config := c.tlsConfig(t)
		config.NextProtos = []string{protocol}
		before, want := c.metrics(t), counts{"connections:offloaded": 1}
		ours, stock := c.visit(t, c.port, config), c.visit(t, c.getenv("PORT2"), config)
		for i, test := range tests {
			query := fmt.Sprintf("%s/%d", protocol, i)
			a := ours.ask(test.method, test.path+"?"+query, test.headers...)
			b := stock.ask(test.method, test.path+"?"+query+"/stock", test.headers...)
			if a != b {
				t.Errorf("%s, %s: %v\nwithout the module: %v", protocol, test.name, a, b)
			}
			if a.status != test.status || test.size != anyNumber && a.body.size != test.size {
				t.Errorf("%s, %s: %v", protocol, test.name, a)
			}
			replies[query] = a
			// Without Caddy's idle timeouts the module's writer is not below error routes.
			apart := test.name == "handle_errors" && idle == "write_idle -1s"
			if protocol == http2.NextProtoTLS && test.own && !apart {
				ours.http2.wantOwnFrames(ours.last)
			}
			if test.sent > 0 {
				want["responses:sendfile"]++
				want["sendfile_bytes"] += test.sent
			}
		}
		ours.leave()
		stock.leave()
		c.expect(t, before, want)
	}
	all := c.accessLog(t, 2*len(replies))
	for _, protocol := range protocols {
		for i, test := range tests {
			query := fmt.Sprintf("%s/%d", protocol, i)
			l, ofStock, size := all[query], all[query+"/stock"], float64(replies[query].body.size)
			if l.size != ofStock.size || l.size != size && test.method != http.MethodHead {
				t.Errorf("%s, %s: the access log says %v bytes, without the module %v; the body has %v",
					protocol, test.name, l.size, ofStock.size, size)
			}
			if l.status != "offloaded" || int64(l.bytes) > test.sent || int64(l.bytes) < test.sent-notByKernel {
				t.Errorf("%s, %s: the placeholders say %s and %v bytes, want %d", protocol, test.name, l.status, l.bytes, test.sent)
			}
		}
	}
}

// A stream that its client lets wait is cut by Caddy's write idle timeout, or a
// handler's, as by stock Caddy, whether its body is a file or comes from memory. The
// other streams of the connection go on.
func TestHTTP2StalledStream(t *testing.T) {
	requireKernelTLS(t)
	for _, test := range []struct{ name, server, handler string }{
		{"write_idle", "write_idle 2s", ""},
		{"a handler's timeout", "write_idle 1h", "timeouts {\nwrite_timeout 2s\n}"},
		{"a handler's timeout alone", "write_idle -1s", "timeouts {\nwrite_timeout 2s\n}"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newCaddy(t)
			f := c.addFile(t, "f", 4<<20)
			c.upstream(t, bodies(t, f))
			c.start(t, serverTimeouts("all", test.server)+
				replaced(t, proxySites("all"), "root {$ROOT}", "root {$ROOT}\n"+test.handler))
			before := c.metrics(t)
			paths := []string{"/f", fmt.Sprintf("/proxied/known/%d", f.size), "/proxied/unknown"}
			c.sameAsStock(t, func(c *caddy) string {
				// Streams get no more than this, unless somebody gives it to them.
				h := c.openHTTP2(t, h2Windows{100_000, 16384, 0, 1 << 24})
				give := func(s *h2Response) {
					h.send(func(*http2.Framer) error { h.grant(s, 50_000); return nil })
				}
				var stalled, moving []*h2Response
				for _, path := range paths {
					stalled, moving = append(stalled, h.get(path)), append(moving, h.get(path))
				}
				wholes := []digest{f.digest, f.digest, f.part(0, large)}
				for cut := false; !cut; {
					var done, poor []int // of moving
					h.wait("something happens", func() bool {
						cut, done, poor = true, nil, nil
						for i, s := range moving {
							cut = cut && (stalled[i].reset || stalled[i].ended)
							if s.reset || s.ended {
								done = append(done, i)
							} else if s.window < 50_000 {
								poor = append(poor, i)
							}
						}
						return cut || len(done)+len(poor) > 0
					})
					for _, i := range poor {
						give(moving[i])
					}
					for _, i := range done {
						h.wantBody(moving[i], http.StatusOK, wholes[i])
						moving[i] = h.get(paths[i])
					}
				}
				h.widen()
				for i, s := range moving {
					h.wantBody(s, http.StatusOK, wholes[i])
				}
				var results []string
				for _, s := range stalled {
					results = append(results, fmt.Sprintf("%d bytes, ended %v, reset %v with %v", h.wantPrefix(s, f), s.ended, s.reset, s.code))
					if !s.reset {
						t.Errorf("a stream that stalls is not cut")
					}
				}
				h.wantFile(h.get("/f"), f)
				h.close()
				return strings.Join(results, "; ")
			})
			c.expect(t, before, counts{
				"connections:offloaded": 1, "responses:sendfile": anyNumber, "sendfile_bytes": anyNumber, "responses_failed": 1,
			})
		})
	}
	fault(t, "Clients", "stalled stream", "HTTP/2, its window is not opened for longer than write_idle or a handler's timeout; a file, and proxied bodies",
		"it is reset as by stock Caddy; the other streams of the connection go on")
}

// What happens to a connection in the middle of bodies that the module sends in its
// own frames, files and proxied ones, does not harm them.
func TestHTTP2FramesLife(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", 2<<20)
	c.upstream(t, bodies(t, f))
	c.start(t, proxySites("large"))
	paths := []string{"/f", fmt.Sprintf("/proxied/known/%d", f.size), fmt.Sprintf("/now/known/%d", f.size)}
	for _, test := range []struct {
		name string
		do   func(t *testing.T, h *h2Conn)
		ends bool // the connection, by GOAWAY
	}{
		{"nothing", func(*testing.T, *h2Conn) {}, false},
		{"GOAWAY by the client", func(_ *testing.T, h *h2Conn) {
			h.send(func(f *http2.Framer) error { return f.WriteGoAway(0, http2.ErrCodeNo, nil) })
		}, true},
		{"reload", func(t *testing.T, h *h2Conn) {
			c.reload(t, proxySites("all"))
			h.wait("GOAWAY", func() bool { return h.goAway != nil })
		}, true},
		{"SIGINT", func(t *testing.T, h *h2Conn) {
			c.signal(t, syscall.SIGINT)
			h.wait("GOAWAY", func() bool { return h.goAway != nil })
		}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := c.openHTTP2(t, h2Windows{100_000, 16384, 0, 1 << 20})
			var streams []*h2Response
			for _, path := range paths {
				streams = append(streams, h.get(path))
			}
			for _, s := range streams {
				h.begun(s, 100_000)
			}
			test.do(t, h)
			h.widen()
			for _, s := range streams {
				h.wantFile(s, f)
				h.wantOwnFrames(s)
			}
			if !test.ends {
				h.wantFile(h.get("/f"), f)
				h.close()
				return
			}
			<-h.done
			if h.goAway == nil || h.goAway.ErrCode != http2.ErrCodeNo {
				t.Errorf("the end was %v, %v", h.readingErr, h.goAway)
			}
		})
	}
	<-c.exited
	fault(t, "Server life", "GOAWAY by the client, reload or SIGINT during files and proxied bodies on one connection", "HTTP/2",
		"whole, then the connection ends")
}
