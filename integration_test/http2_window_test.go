//go:build linux

package integration_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os/exec"
	"testing"

	"golang.org/x/net/http2"
)

// withWindows has a client's connections of HTTP/2 begin with these windows.
func withWindows(client *http.Client, connection, stream int) *http.Client {
	client.Transport.(*http.Transport).HTTP2 = &http.HTTP2Config{
		MaxReceiveBufferPerConnection: connection, MaxReceiveBufferPerStream: stream,
	}
	return client
}

// Go's clients, with the windows that they have and with the least, get files of all
// sizes, one after the other and at once, over one connection.
func TestHTTP2GoClients(t *testing.T) {
	onKernel(t, "7.2")
	requireKernelTLS(t)
	c := newCaddy(t)
	var files []file
	for i, size := range []int64{minSize, minSize + 1, minSize + 16_385, 1<<20 + 1, 20 << 20} {
		f := c.addFile(t, fmt.Sprint(i), size)
		files = append(files, file{digest: f.digest})
	}
	c.start(t, site)
	// The client adds the size to what every connection begins with.
	const least = initialWindow
	tests := []struct {
		name   string
		client *http.Client
	}{
		{"net/http", c.http2Client(t)},
		{"net/http, small windows", withWindows(c.http2Client(t), least, 10_000)},
		{"net/http, small windows of streams", withWindows(c.http2Client(t), 1<<24, 10_000)},
		{"golang.org/x/net", withXNet(t, c.http2Client(t))},
		{"golang.org/x/net, small windows", withXNet(t, withWindows(c.http2Client(t), least, 10_000))},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before, want := c.metrics(t), counts{"connections:offloaded": 1}
			get := func(i int) {
				resp, err := try(t, test.client, http.MethodGet, c.url(fmt.Sprint("/", i)))
				if err != nil {
					t.Error(err)
					return
				}
				wantBody(t, resp, http.StatusOK, files[i].digest)
				if resp.ProtoMajor != 2 {
					t.Errorf("protocol %s", resp.Proto)
				}
			}
			count := func(i int) {
				want["responses:sendfile"]++
				want["sendfile_bytes"] += files[i].size
			}
			for i := range files {
				get(i)
				count(i)
			}
			const atOnce = 8
			for i := range atOnce {
				count(i % len(files))
			}
			inParallel(t, atOnce, atOnce, func(i int) { get(i % len(files)) })
			test.client.CloseIdleConnections()
			c.expect(t, before, want)
		})
	}
	fault(t, "Clients", "Go's HTTP/2 clients", "net/http and golang.org/x/net, with their own windows and the least; 13 files of 131,072 bytes to 20 MiB over one connection, 8 at once",
		"whole, by sendfile")
}

// withXNet has a client speak HTTP/2 by golang.org/x/net.
func withXNet(t testing.TB, client *http.Client) *http.Client {
	t.Helper()
	_, err := http2.ConfigureTransports(client.Transport.(*http.Transport)) //nolint:staticcheck // other code than net/http's own
	must(t, err)
	return client
}

// nghttp gets several files at once, whatever its windows are. Below 2^16 it holds
// back updates of the connection's window, until the server has used as much of it.
func TestHTTP2Nghttp(t *testing.T) {
	onKernel(t, "6.1")
	requireKernelTLS(t)
	requireProgram(t, "nghttp")
	c := newCaddy(t)
	// It prints what comes of all streams as it comes: so each file has a byte of its
	// own, and others, which come alone, have random ones.
	const atOnce = 8
	sizes := map[int]int64{10: 150_000, 14: 500_000, 16: 1<<20 + 1, 30: 4<<20 + 1}
	alone := map[int]file{}
	for bits, size := range sizes {
		for i := range atOnce {
			c.addContent(t, fmt.Sprintf("%d-%d", bits, i), bytes.Repeat([]byte{byte(i)}, int(size)))
		}
		alone[bits] = c.addFile(t, fmt.Sprint(bits), size)
	}
	c.start(t, site)
	for _, test := range []struct{ connection, stream int }{
		{10, 10}, {14, 14}, {16, 16}, {30, 30}, {10, 30}, {30, 10}, {16, 30}, {30, 16},
	} {
		t.Run(fmt.Sprintf("2^%d, streams 2^%d", test.connection, test.stream), func(t *testing.T) {
			bits := min(test.connection, test.stream)
			before, want := c.metrics(t), counts{"connections:offloaded": 2, "connections_lost": anyNumber} // as with curl
			count := func() {
				want["responses:sendfile"]++
				want["sendfile_bytes"] += sizes[bits]
			}
			args := []string{"--no-verify-peer", "-W", fmt.Sprint(test.connection), "-w", fmt.Sprint(test.stream)}
			got, err := run(t, "nghttp", append(args, c.url(fmt.Sprint("/", bits)))...)
			must(t, err)
			count()
			if got != alone[bits].digest {
				t.Errorf("alone: %v, want %v", got, alone[bits].digest)
			}
			for i := range atOnce {
				args = append(args, c.url(fmt.Sprintf("/%d-%d", bits, i)))
				count()
			}
			all, err := exec.CommandContext(t.Context(), "nghttp", args...).Output()
			must(t, err)
			for i := range atOnce {
				if n := bytes.Count(all, []byte{byte(i)}); int64(n) != sizes[bits] {
					t.Errorf("file %d has %d bytes, want %d", i, n, sizes[bits])
				}
			}
			if int64(len(all)) != atOnce*sizes[bits] {
				t.Errorf("%d bytes have come, want %d", len(all), atOnce*sizes[bits])
			}
			c.expect(t, before, want)
		})
	}
	fault(t, "Clients", "nghttp", "windows of 2^10 to 2^30 for the connection and for streams, one file and eight at once", "whole, by sendfile")
}

// A client that grants what every connection begins with, and gives back only what it
// has got, gets everything: the server's small bodies, those of unknown length, and
// those that the module sends in its own frames. Nothing waits for ever.
func TestHTTP2DefaultWindows(t *testing.T) {
	requireKernelTLS(t)
	const size = 3<<20 + 1
	c := newCaddy(t)
	files := []file{c.addFile(t, "0", size), c.addFile(t, "1", size), c.addFile(t, "2", large)}
	medium, proxied := c.addFile(t, "medium", 100_000), c.addFile(t, "proxied", 5<<20)
	c.upstream(t, bodies(t, proxied))
	c.start(t, proxySites("large"))
	for _, test := range []struct {
		name    string
		windows h2Windows
	}{
		{"given back at half", h2Windows{initialWindow, 16384, initialWindow / 2, initialWindow / 2}},
		{"given back when all is used", h2Windows{initialWindow, 16384, -initialWindow, -initialWindow}},
		{"the connection's given back when all is used", h2Windows{1 << 20, 16384, 1 << 20, -initialWindow}},
		{"the streams' given back when all is used", h2Windows{initialWindow, 16384, -initialWindow, 1 << 24}},
	} {
		t.Run(test.name, func(t *testing.T) {
			before, want := c.metrics(t), counts{"connections:offloaded": 1}
			h := c.openHTTP2(t, test.windows)
			type asked struct {
				response *h2Response
				body     digest
			}
			var all []asked
			ask := func(path string, body digest) { all = append(all, asked{h.get(path), body}) }
			text := digestOf([]byte("HTTP/2.0"))
			const rounds = 2
			for range rounds {
				for i, f := range files {
					ask(fmt.Sprint("/", i), f.digest)
					ask("/protocol", text)
					want["responses:sendfile"]++
					want["sendfile_bytes"] += f.size
				}
				ask("/medium", medium.digest)
				ask(fmt.Sprintf("/proxied/known/%d", proxied.size), proxied.digest)
				ask("/proxied/unknown", proxied.part(0, large))
				ask("/now/known/200000", proxied.part(0, 200_000))
				// While the large ones are on their way, small ones come.
				for range 20 {
					h.wantBody(h.get("/protocol"), http.StatusOK, text)
				}
			}
			for _, a := range all {
				h.wantBody(a.response, http.StatusOK, a.body)
			}
			// Each alone.
			for i, f := range files {
				h.wantFile(h.get(fmt.Sprint("/", i)), f)
				want["responses:sendfile"]++
				want["sendfile_bytes"] += f.size
			}
			h.wantBody(h.get("/proxied/known/1000000"), http.StatusOK, proxied.part(0, 1_000_000))
			h.close()
			c.expect(t, before, want)
		})
	}
	fault(t, "Clients", "client that grants no more than the default windows",
		"gives them back at half, or when all is used; files, proxied bodies and small ones on one connection", "whole; nothing waits for ever")
}

// Bodies that begin at the same time on the default windows end: some are still being
// begun by the server while the module needs what the server has of the window.
func TestHTTP2DefaultWindowsAtOnce(t *testing.T) {
	requireKernelTLS(t)
	const atOnce, rounds = 12, 10
	c := newCaddy(t)
	small, f := c.addFile(t, "small", 1000), c.addFile(t, "f", 200_000)
	c.start(t, site)
	for name, windows := range map[string]h2Windows{
		"at half":          {initialWindow, 16384, initialWindow / 2, initialWindow / 2},
		"when all is used": {initialWindow, 16384, -initialWindow, -initialWindow},
		"bit by bit":       {initialWindow, 16384, initialWindow - 500, initialWindow - 500},
	} {
		t.Run(name, func(t *testing.T) {
			for range rounds {
				before := c.metrics(t)
				h := c.openHTTP2(t, windows)
				var files, smalls []*h2Response
				for range atOnce {
					files, smalls = append(files, h.get("/f")), append(smalls, h.get("/small"))
				}
				for i := range atOnce {
					h.wantFile(files[i], f)
					h.wantFile(smalls[i], small)
				}
				h.close()
				c.expect(t, before, counts{
					"connections:offloaded": 1, "responses:sendfile": atOnce, "sendfile_bytes": atOnce * f.size,
				})
			}
		})
	}
}
