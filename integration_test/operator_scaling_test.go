package integration_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

const scalingPage = "docs/scaling.md"

// Two processes with the page's configuration and one storage have the same
// certificate, and a session from either is resumed at the other. The resumed
// connections are offloaded.
func TestScaling(t *testing.T) {
	harness.RequireKernelTLS(t)
	var page struct {
		Apps struct {
			TLS struct {
				Tickets json.RawMessage `json:"session_tickets"`
			}
		}
	}
	testutil.Must(t, json.Unmarshal([]byte(harness.Blocks(t, scalingPage, "json")[0]), &page))
	config := harness.Replaced(t, harness.Blocks(t, scalingPage, "caddyfile")[0],
		"/mnt/caddy", "{$STORAGE}", "example.com", "https://localhost:{$PORT}", "/srv/www", "{$ROOT}")

	one, two := harness.NewCaddy(t), harness.NewCaddy(t)
	f := one.Root.AddFile(t, "f", harness.Large)
	two.Root.AddFile(t, "f", harness.Large)
	storage := filepath.Join(one.Dir, "shared")
	testutil.Must(t, os.MkdirAll(filepath.Join(storage, "pki"), 0o700))
	for _, c := range []*harness.Caddy{one, two} {
		c.Env = append(c.Env, "STORAGE="+storage)
		// So that the test finds the authority's certificate.
		testutil.Must(t, os.MkdirAll(c.Storage(), 0o700))
		testutil.Must(t, os.Symlink(filepath.Join(storage, "pki"), filepath.Join(c.Storage(), "pki")))
		harness.StartWithTickets(t, c, config, string(page.Apps.TLS.Tickets))
	}
	certificate := func(c *harness.Caddy) []byte {
		return c.Dial(t, c.TLSConfig(t)).ConnectionState().PeerCertificates[0].Raw
	}
	if !bytes.Equal(certificate(one), certificate(two)) {
		t.Error("the two have different certificates")
	}
	present(t, two, "from the first at the second", hold(t, one, f), f, true)
	present(t, one, "from the second at the first", hold(t, two, f), f, true)
}
