package integration_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// What the operator asks for tells of the connection that is open, and later that
// it was.
func TestMetricsOfConnection(t *testing.T) {
	harness.RequireKernelTLS(t)
	c, f := harness.StartWithFile(t, harness.Large, harness.FileSite)
	client := c.Client(t, nil)
	harness.WantFile(t, client, c.URL("/f"), f)
	for pattern, want := range map[string]float64{
		`caddy_ktls_connections_total\{cipher="TLS_AES_128_GCM_SHA256",outcome="offloaded",server="srv0",version="TLS 1.3"\}`: 1,
		`caddy_ktls_offloaded_connections\{server="srv0"\}`:                                                                   1,
		`caddy_ktls_responses_total\{outcome="sendfile",server="srv0"\}`:                                                      1,
		`caddy_ktls_sendfile_bytes_total\{server="srv0"\}`: float64(f.Size) -
			c.Metric(t, `caddy_ktls_copied_bytes_total\{reason="remainder",server="srv0"\}`),
	} {
		if got := c.Metric(t, pattern); got != want {
			t.Errorf("%s is %v, want %v", pattern, got, want)
		}
	}
	harness.WantKernelMetric(t, c)
	client.CloseIdleConnections()
	testutil.Eventually(t, "no connection is open", func() error {
		if n := c.Metric(t, `caddy_ktls_offloaded_connections\{server="srv0"\}`); n != 0 {
			return fmt.Errorf("%v are", n)
		}
		return nil
	})
}

// Bytes that are copied have a reason.
func TestMetricsOfCopies(t *testing.T) {
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	small, f := c.Root.AddFile(t, "small", 1000), c.Root.AddText(t, "f.txt", harness.Large)
	c.Start(t, `
https://localhost:{$PORT} {
	ktls
	root {$ROOT}
	respond /text "a text"
	encode gzip
	file_server
}`)
	c.WantFile(t, "/small", small)
	harness.WantBody(t, c.Get(t, "/text"), http.StatusOK, harness.DigestOf([]byte("a text")))
	resp := harness.Do(t, c.Client(t, nil), http.MethodGet, c.URL("/f.txt")) // Go asks for gzip
	harness.WantBody(t, resp, http.StatusOK, f.Digest)
	for _, reason := range []string{"small", "not_a_file"} {
		if n := c.Metric(t, `caddy_ktls_responses_total\{outcome="`+reason+`",server="srv0"\}`); n < 1 {
			t.Errorf("%v responses with outcome %s", n, reason)
		}
	}
	if n := c.Metric(t, `caddy_ktls_copied_bytes_total\{reason="small",server="srv0"\}`); n != 1000 {
		t.Errorf("%v bytes were small", n)
	}
	if n := c.Metric(t, `caddy_ktls_copied_bytes_total\{reason="not_a_file",server="srv0"\}`); n < 6 {
		t.Errorf("%v bytes were of no file", n)
	}
}
