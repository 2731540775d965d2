package integration_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// metric returns the values of a metric whose labels match, together.
func (c *caddy) metric(t testing.TB, pattern string) (sum float64) {
	t.Helper()
	matcher := regexp.MustCompile(`(?m)^` + pattern + ` (\S+)$`)
	for _, match := range matcher.FindAllStringSubmatch(string(c.admin(t, http.MethodGet, "/metrics", "", "")), -1) {
		var n float64
		_, err := fmt.Sscan(match[1], &n)
		must(t, err)
		sum += n
	}
	return sum
}

// What the operator asks for tells of the connection that is open, and later that
// it was.
func TestMetricsOfConnection(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", large)
	c.start(t, site)
	client := c.client(t, nil)
	resp := do(t, client, http.MethodGet, c.url("/f"))
	wantBody(t, resp, http.StatusOK, f.digest)
	for pattern, want := range map[string]float64{
		`caddy_ktls_connections_total\{cipher="TLS_AES_128_GCM_SHA256",outcome="offloaded",server="srv0",version="TLS 1.3"\}`: 1,
		`caddy_ktls_offloaded_connections\{server="srv0"\}`:                                                                   1,
		`caddy_ktls_responses_total\{outcome="sendfile",server="srv0"\}`:                                                      1,
		`caddy_ktls_sendfile_bytes_total\{server="srv0"\}`: float64(f.size) -
			c.metric(t, `caddy_ktls_copied_bytes_total\{reason="remainder",server="srv0"\}`),
	} {
		if got := c.metric(t, pattern); got != want {
			t.Errorf("%s is %v, want %v", pattern, got, want)
		}
	}
	c.wantKernelMetric(t)
	client.CloseIdleConnections()
	eventually(t, "no connection is open", func() error {
		if n := c.metric(t, `caddy_ktls_offloaded_connections\{server="srv0"\}`); n != 0 {
			return fmt.Errorf("%v are", n)
		}
		return nil
	})
}

// Bytes that are copied have a reason.
func TestMetricsOfCopies(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	small, f := c.addFile(t, "small", 1000), c.addText(t, "f.txt", large)
	c.start(t, `
https://localhost:{$PORT} {
	ktls
	root {$ROOT}
	respond /text "a text"
	encode gzip
	file_server
}`)
	wantBody(t, c.get(t, "/small"), http.StatusOK, small.digest)
	wantBody(t, c.get(t, "/text"), http.StatusOK, digestOf([]byte("a text")))
	resp := do(t, c.client(t, nil), http.MethodGet, c.url("/f.txt")) // Go asks for gzip
	wantBody(t, resp, http.StatusOK, f.digest)
	for _, reason := range []string{"small", "not_a_file"} {
		if n := c.metric(t, `caddy_ktls_responses_total\{outcome="`+reason+`",server="srv0"\}`); n < 1 {
			t.Errorf("%v responses with outcome %s", n, reason)
		}
	}
	if n := c.metric(t, `caddy_ktls_copied_bytes_total\{reason="small",server="srv0"\}`); n != 1000 {
		t.Errorf("%v bytes were small", n)
	}
	if n := c.metric(t, `caddy_ktls_copied_bytes_total\{reason="not_a_file",server="srv0"\}`); n < 6 {
		t.Errorf("%v bytes were of no file", n)
	}
}

func TestStatusCommand(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", large)
	c.start(t, site)
	wantBody(t, c.get(t, "/f"), http.StatusOK, f.digest)
	address := "unix/" + c.socket
	text, stderr, code := c.command(t, "ktls", "status", "--address", address)
	for _, part := range []string{"supported", "srv0", "offloaded 1", "sendfile 1"} {
		if !strings.Contains(text, part) {
			t.Errorf("status does not say %q:\n%s%s", part, text, stderr)
		}
	}
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
	text, stderr, code = c.command(t, "ktls", "status", "--json", "--config", filepath.Join(c.dir, "Caddyfile"), "--adapter", "caddyfile")
	var status struct {
		Ciphers []string
		Servers []struct {
			Connections, Responses map[string]int64
			SendfileBytes          int64 `json:"sendfile_bytes"`
		}
	}
	if err := json.Unmarshal([]byte(text), &status); err != nil || code != 0 {
		t.Fatalf("%v, exit code %d\n%s%s", err, code, text, stderr)
	}
	if len(status.Servers) != 1 || status.Servers[0].Connections["offloaded"] != 1 || status.Servers[0].Responses["sendfile"] != 1 ||
		status.Servers[0].SendfileBytes < f.size-notByKernel || !slices.ContainsFunc(status.Ciphers, func(s string) bool { return strings.Contains(s, "AES") }) {
		t.Errorf("status is %s", text)
	}
	if _, stderr, code := c.command(t, "ktls", "status", "--address", "127.0.0.1:1"); code == 0 || !strings.Contains(stderr, "is Caddy running") {
		t.Errorf("exit code %d\n%s", code, stderr)
	}
}

// The placeholders tell of each response, in the access log and in its header.
func TestPlaceholders(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f.bin", large)
	c.start(t, `
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
	client := c.client(t, nil)
	for _, path := range []string{"/text", "/f.bin"} {
		resp := do(t, client, http.MethodGet, c.url(path))
		if path == "/f.bin" {
			wantBody(t, resp, http.StatusOK, f.digest)
		}
		if got := resp.Header.Get("Ktls"); got != "not_needed" {
			t.Errorf("%s: the header says %q", path, got) // before anything was sent
		}
	}
	eventually(t, "the access log has both", func() error {
		if n := len(c.entries("handled request")); n < 2 {
			return fmt.Errorf("%d requests are logged", n)
		}
		return nil
	})
	for _, entry := range c.entries("handled request") {
		request, _ := entry["request"].(map[string]any)
		path := fmt.Sprint(request["uri"])
		status, least := "not_needed", int64(0)
		if path == "/f.bin" {
			status, least = "offloaded", f.size-notByKernel
		}
		n, _ := entry["ktls_bytes"].(float64)
		if got := entry.text("ktls_status"); got != status || int64(n) < least || least == 0 && n > 0 {
			t.Errorf("%s: the access log says %s and %v bytes", path, got, entry["ktls_bytes"])
		}
	}
}
