package integration_test

import (
	"net/http"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// requireNoKernelTLS skips the test where the kernel has TLS.
func requireNoKernelTLS(t testing.TB) {
	t.Helper()
	if _, err := ktls.Probe(); err == nil {
		t.Skip("needs a kernel without kernel TLS")
	}
}

// The same site serves the same bytes, says once why not by the kernel, and
// leaves the connections alone.
func TestWithoutKernelTLS(t *testing.T) {
	requireNoKernelTLS(t)
	for _, offload := range []string{"large", "all"} {
		t.Run(offload, func(t *testing.T) {
			c := newCaddy(t)
			f := c.addFile(t, "f", 1<<20)
			config := `
http://localhost:{$PORT2}, https://localhost:{$PORT}, https://localhost:{$PORT3} {
	ktls {
		offload ` + offload + `
	}
	root {$ROOT}
	file_server
}`
			c.start(t, config)
			before := c.metrics(t)
			if got := c.curl(t, c.url("/f")); got != f.digest {
				t.Errorf("body has %v, want %v", got, f.digest)
			}
			wantBody(t, c.get(t, "/f"), http.StatusOK, f.digest)
			wantBody(t, c.get(t, "/f", "Range", "bytes=1-99999"), http.StatusPartialContent, f.part(1, 100000))
			h2 := c.tlsConfig(t)
			h2.NextProtos = []string{"h2"}
			client := c.client(t, h2)
			wantBody(t, do(t, client, http.MethodGet, c.url("/f")), http.StatusOK, f.digest)
			client.CloseIdleConnections()
			c.expect(t, before, counts{})

			// Not again for the next configuration either.
			c.reload(t, config+"\n")
			wantBody(t, c.get(t, "/f"), http.StatusOK, f.digest)
			c.expect(t, before, counts{})
			infos := 0
			for _, entry := range c.withReason("kernel_unsupported") {
				if entry.text("level") == "info" {
					infos++
				}
			}
			if infos != 1 {
				t.Errorf("%d lines at level info have the reason kernel_unsupported, want 1", infos)
			}
		})
	}
}

// The answer to plain HTTP is stock Caddy's own here, and the same.
func TestWithoutKernelTLSPlainHTTP(t *testing.T) {
	requireNoKernelTLS(t)
	testPlainHTTPToTLSPort(t, startCaddy(t, site))
}
