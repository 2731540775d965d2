package integration_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

const scalingPage = "docs/scaling.md"

// Two processes with the page's configuration and one storage have the same
// certificate, and a session from either is resumed at the other. The resumed
// connections are offloaded.
func TestScaling(t *testing.T) {
	requireKernelTLS(t)
	var page struct {
		Apps struct {
			TLS struct {
				Tickets json.RawMessage `json:"session_tickets"`
			}
		}
	}
	if err := json.Unmarshal([]byte(blocks(t, scalingPage, "json")[0]), &page); err != nil {
		t.Fatal(err)
	}
	config := replaced(t, blocks(t, scalingPage, "caddyfile")[0],
		"/mnt/caddy", "{$STORAGE}", "example.com", "https://localhost:{$PORT}", "/srv/www", "{$ROOT}")

	one, two := newCaddy(t), newCaddy(t)
	f := one.addFile(t, "f", large)
	two.addFile(t, "f", large)
	storage := filepath.Join(one.dir, "shared")
	if err := os.MkdirAll(filepath.Join(storage, "pki"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*caddy{one, two} {
		c.env = append(c.env, "STORAGE="+storage)
		// So that the test finds the authority's certificate.
		if err := os.MkdirAll(c.storage(), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(storage, "pki"), filepath.Join(c.storage(), "pki")); err != nil {
			t.Fatal(err)
		}
		c.startWithTickets(t, config, string(page.Apps.TLS.Tickets))
	}
	certificate := func(c *caddy) []byte {
		return c.dial(t, c.tlsConfig(t)).ConnectionState().PeerCertificates[0].Raw
	}
	if !bytes.Equal(certificate(one), certificate(two)) {
		t.Error("the two have different certificates")
	}
	two.present(t, "from the first at the second", one.hold(t, f), f, true)
	one.present(t, "from the second at the first", two.hold(t, f), f, true)
}
