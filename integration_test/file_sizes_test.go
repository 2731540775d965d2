package integration_test

import (
	"fmt"
	"net/http"
	"os"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

func TestSizes(t *testing.T) {
	harness.RequireKernelTLS(t)
	sizes := []int64{0, 1, 4 << 10, harness.MinSize - 1, harness.MinSize, harness.MinSize + 1, harness.MinSize + 4096, harness.MinSize + 4097, 1 << 20}
	c := harness.NewCaddy(t)
	files := make([]harness.File, len(sizes))
	for i, size := range sizes {
		files[i] = c.Root.AddFile(t, fmt.Sprint(size), size)
	}
	c.Start(t, harness.FileSite)
	for i, size := range sizes {
		t.Run(fmt.Sprintf("Go %d", size), func(t *testing.T) {
			before := c.Metrics(t)
			harness.WantBody(t, c.Get(t, fmt.Sprintf("/%d", size)), http.StatusOK, files[i].Digest)
			c.Expect(t, before, harness.SentOrNot(size))
		})
		t.Run(fmt.Sprintf("curl %d", size), func(t *testing.T) {
			before := c.Metrics(t)
			c.WantCurl(t, files[i], c.URL(fmt.Sprintf("/%d", size)))
			c.Expect(t, before, harness.SentOrNot(size))
		})
		if size >= harness.MinSize-1 && size <= harness.MinSize+1 || size == 0 {
			t.Run(fmt.Sprintf("HTTP/2 %d", size), func(t *testing.T) {
				before, client := c.Metrics(t), c.ProtocolClient(t, harness.HTTP2)
				harness.WantFile(t, client, c.URL(fmt.Sprintf("/%d", size)), files[i])
				client.CloseIdleConnections()
				c.Expect(t, before, harness.SentOrNot(size))
			})
		}
	}
	results.Fault(t, "Files", "Empty files, and those as long as min_size, one byte more or less", "over HTTP/1.1 and HTTP/2",
		"whole; by sendfile from min_size on")
}

func TestHundredMiB(t *testing.T) {
	harness.RequireKernelTLS(t)
	c, f := harness.StartWithFile(t, 100<<20, harness.FileSite)
	before := c.Metrics(t)
	c.WantCurl(t, f, c.URL("/f"))
	c.Expect(t, before, harness.SentByKernel(f.Size))
}

// sparse is a file of 5 GiB with data at the places where numbers of 32 bits end.
type sparse struct {
	size  int64
	parts map[int64][]byte // by their offset
}

// part returns the digest of the bytes from on, to but without to.
func (s sparse) part(from, to int64) harness.Digest {
	d, buf := harness.NewDigester(), make([]byte, 1<<20)
	for from < to {
		p := buf[:min(to-from, int64(len(buf)))]
		clear(p)
		for offset, data := range s.parts {
			if skip := from - offset; skip >= 0 && skip < int64(len(data)) {
				copy(p, data[skip:])
			} else if skip < 0 && -skip < int64(len(p)) {
				copy(p[-skip:], data)
			}
		}
		_, _ = d.Write(p)
		from += int64(len(p))
	}
	return d.Digest()
}

func addSparse(t testing.TB, c *harness.Caddy, name string) sparse {
	t.Helper()
	s := sparse{5<<30 + 321, map[int64][]byte{}}
	data := c.Root.AddFile(t, "data", harness.Large).Content
	for _, offset := range []int64{0, 1<<31 - 100_001, 1<<32 - 100_001, s.size - int64(len(data))} {
		s.parts[offset] = data
	}
	f, err := os.Create(c.Root.Path(name))
	testutil.Must(t, err)
	defer f.Close()
	testutil.Must(t, f.Truncate(s.size))
	for offset, data := range s.parts {
		_, err := f.WriteAt(data, offset)
		testutil.Must(t, err)
	}
	return s
}

// Offsets and lengths beyond 2^32 are right. The whole file takes long.
func TestSparseFile(t *testing.T) {
	harness.OnKernel(t, "6.1")
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	s := addSparse(t, c, "f")
	c.Start(t, harness.FileSite)
	ranges := [][2]int64{
		{1<<31 - 70_001, 1<<31 + 70_001},
		{1<<32 - 1, 1<<32 + 199_999},
		{1 << 32, 1<<32 + 199_999},
		{1<<32 - 70_001, 1<<32 + 70_001},
		{1<<32 - 2<<20, 1<<32 + 1},
		{s.size - harness.Large - 70_000, s.size},
		{s.size - harness.MinSize, s.size},
	}
	c.ForEachProtocol(t, func(t *testing.T, client *http.Client) {
		before := c.Metrics(t)
		want := harness.Counts{"connections:offloaded": 1}
		for _, r := range ranges {
			resp := harness.Get(t, client, c.URL("/f"), "Range", fmt.Sprintf("bytes=%d-%d", r[0], r[1]-1))
			harness.WantBody(t, resp, http.StatusPartialContent, s.part(r[0], r[1]))
			if got, want := resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-%d/%d", r[0], r[1]-1, s.size); got != want {
				t.Errorf("Content-Range %q, want %q", got, want)
			}
			want.AddSent(r[1] - r[0])
		}
		c.Expect(t, before, want)
		if harness.Long() {
			harness.WantBody(t, harness.Get(t, client, c.URL("/f")), http.StatusOK, s.part(0, s.size))
			want.AddSent(s.size)
			c.Expect(t, before, want)
		}
	})
	results.Fault(t, "Files", "A sparse file of 5 GiB", "ranges around 2^31, 2^32 and at the end, over HTTP/1.1 and HTTP/2", "whole, by sendfile")
}
