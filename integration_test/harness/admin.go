package harness

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// Admin sends a request to the admin endpoint, and returns the body of the response,
// whose status must be 200.
func (c *Caddy) Admin(t testing.TB, method, path, contentType, body string) []byte {
	t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", c.Socket)
	}}
	defer transport.CloseIdleConnections()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://127.0.0.1"+path, strings.NewReader(body))
	testutil.Must(t, err)
	r.Header.Set("Content-Type", contentType)
	// Caddy loads a configuration even if it is the current one, as for caddy reload --force.
	r.Header.Set("Cache-Control", "must-revalidate")
	resp, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatalf("admin endpoint: %v\n%s", err, c.Log.Tail())
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	testutil.Must(t, err)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("admin endpoint: %s %s: %s: %s", method, path, resp.Status, answer)
	}
	return answer
}

// Reload replaces the configuration. The Caddyfile needs no global options.
func (c *Caddy) Reload(t testing.TB, caddyfile string) {
	t.Helper()
	c.Admin(t, http.MethodPost, "/load", "text/caddyfile", c.complete(caddyfile))
}

// Command runs a command of Caddy. It returns what the command prints and its exit code.
func (c *Caddy) Command(t testing.TB, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	self, err := os.Executable()
	testutil.Must(t, err)
	var out, complaint bytes.Buffer
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Env, cmd.Dir = c.Env, c.Dir
	cmd.Stdout, cmd.Stderr = &out, &complaint
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), complaint.String(), cmd.ProcessState.ExitCode()
}
