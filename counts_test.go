package caddyktls

import (
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-ktls/caddy-ktls/internal/telemetry"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil/caddytest"
)

// A connection and a response are counted once, also if several sites of a server have the
// directive, if it matches a request twice, and after a reload.
func TestCountedOnce(t *testing.T) {
	root := t.TempDir()
	body := testutil.Body(3 * 65536)
	testutil.WriteFile(t, filepath.Join(root, "file"), body)
	address := testutil.FreeAddress(t)
	client, certificate, key := testCertificate(t)
	_, port, err := net.SplitHostPort(address)
	testutil.Must(t, err)
	const name = "counted-once"
	// The two wrappers are what two sites with the directive add.
	config := fmt.Sprintf(`{
	auto_https disable_redirects
	servers 127.0.0.1:%s {
		name %s
		listener_wrappers {
			ktls
			ktls
		}
	}
}

https://%s {
	bind 127.0.0.1
	tls %s %s
	ktls /file
	ktls {
		min_size 1KiB
	}
	root %s
	file_server
}
`, port, name, address, certificate, key, root)
	t.Cleanup(func() { testutil.Must(t, caddy.Stop()) })
	for i := range 2 {
		testutil.Must(t, caddy.Run(caddytest.Config(t, config)))
		wantBody(t, client, "https://"+address+"/file", body)
		client.Transport.(*http.Transport).CloseIdleConnections()
		for _, metric := range []string{"caddy_ktls_connections_total", "caddy_ktls_responses_total"} {
			deadline := time.Now().Add(5 * time.Second)
			for counted(t, metric, name) <= i && time.Now().Before(deadline) {
				time.Sleep(10 * time.Millisecond)
			}
			if got := counted(t, metric, name); got != i+1 {
				t.Errorf("%s is %d after %d requests", metric, got, i+1)
			}
		}
	}
}

// counted returns the sum of a counter over all outcomes for a server.
func counted(t *testing.T, metric, server string) (sum int) {
	t.Helper()
	registry := prometheus.NewRegistry()
	testutil.Must(t, telemetry.Register(registry))
	families, err := registry.Gather()
	testutil.Must(t, err)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			for _, label := range m.GetLabel() {
				if family.GetName() == metric && label.GetName() == "server" && label.GetValue() == server {
					sum += int(m.GetCounter().GetValue())
				}
			}
		}
	}
	return sum
}
