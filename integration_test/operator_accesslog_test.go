package integration_test

import (
	"net/http"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
)

// The access log tells the body's size; its recorder, and that of Caddy's HTTP
// metrics, are not in the way.
func TestAccessLog(t *testing.T) {
	harness.RequireKernelTLS(t)
	c, f := harness.StartWithFile(t, harness.Large, `
{
	metrics
}
https://localhost:{$PORT} {
	ktls
	log
	root {$ROOT}
	file_server
}`)
	before := c.Metrics(t)
	client := c.Client(t, nil)
	harness.WantFile(t, client, c.URL("/f"), f)
	harness.WantBody(t, harness.Get(t, client, c.URL("/f"), "Range", "bytes=0-199999"), http.StatusPartialContent, f.Part(0, 200000))
	client.CloseIdleConnections()
	c.Expect(t, before, harness.SentTimes(1, 2, harness.Large+200000))
	for i, a := range c.Log.AwaitAccesses(t, 2) {
		if want := []int64{harness.Large, 200000}[i]; a.Size != want {
			t.Errorf("request %d: size %d in the access log, want %d", i, a.Size, want)
		}
	}
}

// The placeholders tell of each response, in the access log and in its header.
func TestPlaceholders(t *testing.T) {
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	f := c.Root.AddFile(t, "f.bin", harness.Large)
	c.Start(t, `
https://localhost:{$PORT} {
	log
	log_append ktls_status {http.ktls.status}
	log_append ktls_bytes {http.ktls.sendfile_bytes}
	header Ktls {http.ktls.status}
	ktls
	root {$ROOT}
	respond /text "a text"
	file_server
}`)
	client := c.Client(t, nil)
	for _, path := range []string{"/text", "/f.bin"} {
		resp := harness.Get(t, client, c.URL(path))
		if path == "/f.bin" {
			harness.WantBody(t, resp, http.StatusOK, f.Digest)
		}
		if got := resp.Header.Get("Ktls"); got != "not_needed" {
			t.Errorf("%s: the header says %q", path, got) // before anything was sent
		}
	}
	for _, a := range c.Log.AwaitAccesses(t, 2) {
		status, least := "not_needed", int64(0)
		if a.Request.URI == "/f.bin" {
			status, least = "offloaded", f.Size-harness.NotByKernel
		}
		if n := a.Sent(); a.KTLSStatus != status || n < least || least == 0 && n > 0 {
			t.Errorf("%s: the access log says %s and %v bytes", a.Request.URI, a.KTLSStatus, a.KTLSBytes)
		}
	}
}
