package integration_test

import (
	"net/http"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
)

// The same site serves the same bytes, says once why not by the kernel, and
// leaves the connections alone.
func TestWithoutKernelTLS(t *testing.T) {
	harness.RequireNoKernelTLS(t)
	for _, offload := range []string{"large", "all"} {
		t.Run(offload, func(t *testing.T) {
			c := harness.NewCaddy(t)
			f := c.Root.AddFile(t, "f", 1<<20)
			config := `
http://localhost:{$PORT2}, https://localhost:{$PORT}, https://localhost:{$PORT3} {
	ktls {
		offload ` + offload + `
	}
	root {$ROOT}
	file_server
}`
			c.Start(t, config)
			before := c.Metrics(t)
			c.WantCurl(t, f, c.URL("/f"))
			c.WantFile(t, "/f", f)
			harness.WantBody(t, c.Get(t, "/f", "Range", "bytes=1-99999"), http.StatusPartialContent, f.Part(1, 100000))
			h2 := c.TLSConfig(t, harness.HTTP2)
			client := c.Client(t, h2)
			harness.WantFile(t, client, c.URL("/f"), f)
			client.CloseIdleConnections()
			c.Expect(t, before, harness.Unsupported(4, 4))
			if n := c.Metric(t, "caddy_ktls_available"); n != 0 {
				t.Errorf("caddy_ktls_available is %v", n)
			}

			// Not again for the next configuration either.
			c.Reload(t, config)
			c.WantFile(t, "/f", f)
			c.Expect(t, before, harness.Unsupported(5, 5))
			warnings := 0
			for _, entry := range c.Log.WithReason("kernel_unsupported") {
				if entry.Text("level") == "warn" {
					warnings++
				}
			}
			if warnings != 1 {
				t.Errorf("%d warnings have the reason kernel_unsupported, want 1", warnings)
			}
		})
	}
}

// The answer to plain HTTP is stock Caddy's own here, and the same.
func TestWithoutKernelTLSPlainHTTP(t *testing.T) {
	harness.RequireNoKernelTLS(t)
	testPlainHTTPToTLSPort(t, harness.StartCaddy(t, harness.FileSite))
}
