//go:build linux

package integration_test

import (
	"fmt"
	"net/http"
	"testing"

	"golang.org/x/net/http2"
)

const h2Site = `
https://localhost:{$PORT} {
	ktls {
		min_size 8KiB
		offload all
	}
	root {$ROOT}
	respond /protocol "{http.request.proto}"
	respond /echo "{http.request.body}"
	file_server
}`

// sent is what a connection of HTTP/2 changes that carries these files by
// sendfile(2).
func sent(files ...file) counts {
	want := counts{"connections:offloaded": 1, "responses:sendfile": int64(len(files))}
	for _, f := range files {
		want["sendfile_bytes"] += f.size
	}
	return want
}

// The client fails if the server does not keep to its windows and frame size.
func TestHTTP2FlowControl(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f, typed := c.addFile(t, "f", large), c.addFile(t, "f.bin", large)
	c.start(t, h2Site)
	tests := []struct {
		name    string
		windows h2Windows
	}{
		{"stream opened by 1", h2Windows{1, 16384, 1, 1 << 20}},
		{"connection opened by 1", h2Windows{1 << 20, 16384, 0, 1}},
		{"stream 0, opened by 999", h2Windows{0, 16384, 999, 1 << 20}},
		{"stream 16383", h2Windows{16383, 16384, 16383, 1 << 20}},
		{"stream 16384", h2Windows{16384, 16384, 16384, 1 << 20}},
		{"stream 16385", h2Windows{16385, 16384, 16385, 1 << 20}},
		{"stream 65535, opened by 12345", h2Windows{65535, 16384, 12345, 32 << 10}},
		{"connection opened by 4099", h2Windows{1 << 20, 16384, 0, 4099}},
		{"frames 20000", h2Windows{65535, 20000, 30001, 40001}},
		{"frames 1 MiB", h2Windows{1 << 20, 1 << 20, 1 << 20, 1 << 20}},
		{"frames 16 MiB", h2Windows{1<<31 - 1, 1<<24 - 1, 0, 1 << 24}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before := c.metrics(t)
			h := c.openHTTP2(t, test.windows)
			one, other := h.get("/f"), h.get("/f.bin")
			if test.windows.stream == 1 || test.windows.connection == 1 {
				// So small for a while only.
				h.wait("some bytes have come", func() bool {
					return len(one.body)+len(other.body) >= min(int(test.windows.initial), initialWindow)+500
				})
				h.widen()
			}
			h.wantFile(one, f)
			h.wantFile(other, typed)
			h.close()
			c.expect(t, before, sent(f, typed))
		})
	}
}

// The initial window may change at any time, and leave streams a window that is
// negative; so may the size of frames.
func TestHTTP2SettingsOnTheWay(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f, typed := c.addFile(t, "f", 1<<20), c.addFile(t, "f.bin", 1<<20)
	c.start(t, h2Site)
	before := c.metrics(t)
	h := c.openHTTP2(t, h2Windows{10_000, 16384, 0, 1 << 20})
	one, other := h.get("/f"), h.get("/f.bin")
	for _, change := range []struct{ initial, maxFrame uint32 }{
		{30_001, 16384}, {5, 20_000}, {40_000, 1 << 20}, {100_000, 16384}, {0, 1<<24 - 1}, {100_001, 16385}, {2 << 20, 16384},
	} {
		h.wait("the windows are used up", func() bool { return one.window <= 0 && other.window <= 0 })
		h.configure(http2.Setting{ID: http2.SettingInitialWindowSize, Val: change.initial},
			http2.Setting{ID: http2.SettingMaxFrameSize, Val: change.maxFrame})
		h.settled()
	}
	h.wantFile(one, f)
	h.wantFile(other, typed)
	h.close()
	c.expect(t, before, sent(f, typed))
}

// Settings are acknowledged also if they come with the request for the first file.
func TestHTTP2SettingsBesideFile(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f.bin", large)
	c.start(t, h2Site)
	for range 10 {
		h := c.openHTTP2(t, h2Windows{1000, 16384, 0, 1 << 20})
		s := h.get("/f.bin")
		h.settled()
		h.begun(s, 1000)
		h.configure(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
		h.settled()
		h.wantFile(s, f)
		h.close()
	}
}

// Files of both sizes, other handlers, and requests that have no file as their
// answer, share a connection.
func TestHTTP2Together(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	c.start(t, h2Site)
	var files []file
	for i := range 24 {
		files = append(files, c.addFile(t, fmt.Sprintf("%d.bin", i), 2500*int64(i)*int64(i%5)+100))
	}
	before := c.metrics(t)
	h := c.openHTTP2(t, h2Windows{50_000, 16384, 33_333, 40_000})
	want := counts{"connections:offloaded": 1}
	type asked struct {
		response *h2Response
		status   int
		body     digest
	}
	all := []asked{{h.get("/protocol"), http.StatusOK, digestOf([]byte("HTTP/2.0"))}}
	for i, f := range files {
		path := fmt.Sprintf("/%d.bin", i)
		all = append(all, asked{h.get(path), http.StatusOK, f.digest})
		sendfile(want, f.size)
		switch {
		case i%4 == 0:
			all = append(all, asked{h.request(http.MethodHead, path), http.StatusOK, digestOf(nil)},
				asked{h.request(http.MethodPost, "/echo"), http.StatusOK, digestOf([]byte("posted"))})
		case i%4 == 1:
			all = append(all, asked{h.get("/missing"), http.StatusNotFound, digestOf(nil)})
		case f.size > 20_000:
			all = append(all, asked{h.request(http.MethodGet, path, "range", fmt.Sprintf("bytes=%d-%d", 10*i, f.size-10)),
				http.StatusPartialContent, f.part(10*int64(i), f.size-9)})
			sendfile(want, f.size-9-10*int64(i))
		}
	}
	for _, a := range all {
		h.wantBody(a.response, a.status, a.body)
	}
	h.close()
	c.expect(t, before, want)
}

// sendfile counts a response of this size, if it is worth it.
func sendfile(want counts, size int64) {
	if size >= 8<<10 {
		want["responses:sendfile"]++
		want["sendfile_bytes"] += size
	}
}
