package caddyktls

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil/caddytest"
)

// A configuration may be loaded again and again: metrics are registered with
// each, the servers of the former ones are forgotten, and it serves on.
func TestReload(t *testing.T) {
	root := t.TempDir()
	body := testutil.Body(3*65536 + 1)
	testutil.WriteFile(t, filepath.Join(root, "file"), body)
	address := testutil.FreeAddress(t)
	client, certificate, key := testCertificate(t)
	config, err := json.Marshal(caddytest.Config(t, fmt.Sprintf(`{
	auto_https disable_redirects
}

https://%s {
	bind 127.0.0.1
	tls %s %s
	ktls
	root %s
	file_server
}
`, address, certificate, key, root)))
	if err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
		wantServers(t, 0)
	})
	for range 3 {
		if err := caddy.Load(config, true); err != nil {
			t.Fatal(err)
		}
		wantServers(t, 1)
		wantMetric(t, "caddy_ktls_sendfile_bytes_total")
		wantBody(t, client, "https://"+address+"/file", body)
	}

	// A configuration that is refused leaves the one that runs as it is.
	bad := caddytest.Config(t, "https://"+address+" {\n\thandle {\n\t\tktls\n\t}\n}\n")
	if err := caddy.Run(bad); err == nil {
		t.Error("no error")
	}
	wantServers(t, 1)
	wantBody(t, client, "https://"+address+"/file", body)
}

// wantMetric checks that the running configuration has a metric.
func wantMetric(t testing.TB, name string) {
	t.Helper()
	ctx := caddy.ActiveContext()
	families, err := ctx.GetMetricsRegistry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == name {
			return
		}
	}
	t.Errorf("no metric %s", name)
}
