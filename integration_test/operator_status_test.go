package integration_test

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
)

func TestStatusCommand(t *testing.T) {
	harness.RequireKernelTLS(t)
	c, f := harness.StartWithFile(t, harness.Large, harness.FileSite)
	c.WantFile(t, "/f", f)
	address := "unix/" + c.Socket
	text, stderr, code := c.Command(t, "ktls", "status", "--address", address)
	for _, part := range []string{"kernel TLS", "available", "srv0", "offloaded 1", "sendfile 1"} {
		if !strings.Contains(text, part) {
			t.Errorf("status does not say %q:\n%s%s", part, text, stderr)
		}
	}
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
	text, stderr, code = c.Command(t, "ktls", "status", "--json", "--config", filepath.Join(c.Dir, "Caddyfile"), "--adapter", "caddyfile")
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
		status.Servers[0].SendfileBytes < f.Size-harness.NotByKernel || !slices.ContainsFunc(status.Ciphers, func(s string) bool { return strings.Contains(s, "AES") }) {
		t.Errorf("status is %s", text)
	}
	if _, stderr, code := c.Command(t, "ktls", "status", "--address", "127.0.0.1:1"); code == 0 || !strings.Contains(stderr, "is Caddy running") {
		t.Errorf("exit code %d\n%s", code, stderr)
	}
}
