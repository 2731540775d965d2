package integration_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// HTTP/2 shares the port.
func TestHTTP2(t *testing.T) {
	harness.RequireKernelTLS(t)
	for _, offload := range []string{"large", "all"} {
		t.Run(offload, func(t *testing.T) {
			c, f := harness.StartWithFile(t, harness.Large, harness.OffloadSite(offload))
			before := c.Metrics(t)
			client := c.Client(t, c.TLSConfig(t, harness.HTTP2, harness.HTTP1)) // the server chooses
			const times = 3
			for range times {
				resp := harness.Get(t, client, c.URL("/f"))
				harness.WantBody(t, resp, http.StatusOK, f.Digest)
				if resp.ProtoMajor != 2 {
					t.Errorf("protocol %s, want HTTP/2", resp.Proto)
				}
			}
			client.CloseIdleConnections()
			c.Expect(t, before, harness.SentTimes(1, times, times*f.Size))

			before = c.Metrics(t)
			c.WantFile(t, "/f", f)
			c.Expect(t, before, harness.SentByKernel(f.Size))
		})
	}
}

// Files of both sizes, other handlers, and requests that have no file as their
// answer, share a connection.
func TestHTTP2Together(t *testing.T) {
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	c.Start(t, harness.HTTP2Site)
	var files []harness.File
	for i := range 24 {
		files = append(files, c.Root.AddFile(t, fmt.Sprintf("%d.bin", i), 2500*int64(i)*int64(i%5)+100))
	}
	before := c.Metrics(t)
	h := harness.OpenHTTP2(t, c.Site, harness.Windows{Initial: 50_000, MaxFrame: 16384, Stream: 33_333, Connection: 40_000})
	want := harness.Counts{"connections:offloaded": 1}
	type asked struct {
		response *harness.Stream
		status   int
		body     harness.Digest
	}
	all := []asked{{h.Get("/protocol"), http.StatusOK, harness.DigestOf([]byte("HTTP/2.0"))}}
	for i, f := range files {
		path := fmt.Sprintf("/%d.bin", i)
		all = append(all, asked{h.Get(path), http.StatusOK, f.Digest})
		sendfile(want, f.Size)
		switch {
		case i%4 == 0:
			all = append(all, asked{h.Request(http.MethodHead, path), http.StatusOK, harness.DigestOf(nil)},
				asked{h.Request(http.MethodPost, "/echo"), http.StatusOK, harness.DigestOf([]byte("posted"))})
		case i%4 == 1:
			all = append(all, asked{h.Get("/missing"), http.StatusNotFound, harness.DigestOf(nil)})
		case f.Size > 20_000:
			all = append(all, asked{h.Request(http.MethodGet, path, "range", fmt.Sprintf("bytes=%d-%d", 10*i, f.Size-10)),
				http.StatusPartialContent, f.Part(10*int64(i), f.Size-9)})
			sendfile(want, f.Size-9-10*int64(i))
		}
	}
	for _, a := range all {
		h.WantBody(a.response, a.status, a.body)
	}
	h.Close()
	c.Expect(t, before, want)
}

// sendfile counts a response of this size, if it is worth it.
func sendfile(want harness.Counts, size int64) {
	if size >= 8<<10 {
		want.AddSent(size)
	}
}

// The connection moves when the first large file comes: small ones before it are
// copied, and several large ones at once move it once.
func TestHTTP2FirstFiles(t *testing.T) {
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	small := c.Root.AddFile(t, "small", 1000)
	var files []harness.File
	for i := range 4 {
		files = append(files, c.Root.AddFile(t, fmt.Sprint("f", i), harness.Large+int64(i)*10_007))
	}
	c.Start(t, harness.FileSite)
	for name, first := range map[string]bool{"small first": true, "large at once": false} {
		t.Run(name, func(t *testing.T) {
			for range 4 {
				before := c.Metrics(t)
				h := harness.OpenHTTP2(t, c.Site, harness.WideWindows())
				if first {
					h.WantFile(h.Get("/small"), small)
				}
				want := harness.SentTimes(1, int64(len(files)), harness.AnyNumber)
				var streams []*harness.Stream
				least := int64(0)
				for i, f := range files {
					streams = append(streams, h.Get(fmt.Sprint("/f", i)))
					least += f.Size - harness.NotByKernel - 8<<10 // to move the connection
				}
				for i, s := range streams {
					h.WantFile(s, files[i])
				}
				h.Close()
				c.Expect(t, before, want)
				if n := c.Metrics(t)["sendfile_bytes"] - before["sendfile_bytes"]; n < least {
					t.Errorf("%d bytes have gone out by sendfile, want %d", n, least)
				}
			}
		})
	}
}

// Both versions of HTTP share the port at the same time.
func TestHTTP2BesideHTTP1(t *testing.T) {
	harness.RequireKernelTLS(t)
	const clients, rounds = 3, 3
	c := harness.NewCaddy(t)
	f := c.Root.AddFile(t, "f.bin", 1<<20)
	c.Start(t, harness.HTTP2Site)
	before := c.Metrics(t)
	var all sync.WaitGroup
	for i := range 2 * clients {
		client, major := c.Client(t, nil), 1
		if i%2 == 1 {
			client, major = c.ProtocolClient(t, harness.HTTP2), 2
		}
		all.Go(func() {
			defer client.CloseIdleConnections()
			for range rounds {
				resp, err := harness.Try(t, client, http.MethodGet, c.URL("/f.bin"))
				if err != nil {
					t.Error(err)
					return
				}
				harness.WantBody(t, resp, http.StatusOK, f.Digest)
				if resp.ProtoMajor != major {
					t.Errorf("protocol %s, want version %d", resp.Proto, major)
				}
			}
		})
	}
	all.Wait()
	c.Expect(t, before, harness.SentTimes(2*clients, 2*clients*rounds, 2*clients*rounds*f.Size))
}

// Many large files at once share one connection, come whole, and go out by
// sendfile(2).
func TestHTTP2Bulk(t *testing.T) {
	harness.RequireKernelTLS(t)
	const streams, size = 32, 8 << 20
	c := harness.NewCaddy(t)
	var files []harness.File
	for i := range streams {
		f := c.Root.AddFile(t, fmt.Sprint(i), size)
		files = append(files, harness.File{Digest: f.Digest}) // so much need not be kept
	}
	c.Start(t, harness.HTTP2Site)
	before := c.Metrics(t)
	received := filepath.Join(c.Dir, "received")
	c.Curl(t, "--http2", "--parallel", "--parallel-max", fmt.Sprint(streams),
		"--create-dirs", "--output", received+"/#1", c.URL(fmt.Sprintf("/[0-%d]", streams-1)))
	for i, f := range files {
		if got := digestOfFile(t, filepath.Join(received, fmt.Sprint(i))); got != f.Digest {
			t.Errorf("file %d has %v, want %v", i, got, f.Digest)
		}
	}
	c.Expect(t, before, harness.Sent(files...))
}

func digestOfFile(t testing.TB, name string) harness.Digest {
	t.Helper()
	f, err := os.Open(name)
	testutil.Must(t, err)
	defer f.Close()
	d := harness.NewDigester()
	_, err = io.Copy(d, f)
	testutil.Must(t, err)
	return d.Digest()
}
