package integration_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
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
