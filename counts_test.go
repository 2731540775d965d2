package caddyktls

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"testing"

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
	const connections, responses = "caddy_ktls_connections_total", "caddy_ktls_responses_total"
	connectionsBefore, responsesBefore, dropped := counted(t, connections, name), counted(t, responses, name), 0
	for i := range 2 {
		testutil.Must(t, caddy.Run(caddytest.Config(t, config)))
		// The server of before a reload may still accept a connection, and drop it.
		testutil.Eventually(t, "the file comes", func() error {
			response, err := client.Get("https://" + address + "/file")
			if err != nil {
				dropped++
				return err
			}
			defer response.Body.Close()
			got, err := io.ReadAll(response.Body)
			testutil.Must(t, err)
			testutil.SameBody(t, got, body)
			return nil
		})
		client.Transport.(*http.Transport).CloseIdleConnections()
		testutil.Eventually(t, "all is counted", func() error {
			c, r := counted(t, connections, name)-connectionsBefore, counted(t, responses, name)-responsesBefore
			if c <= i || r <= i {
				return fmt.Errorf("%d connections and %d responses after %d requests", c, r, i+1)
			}
			if c > i+1+dropped || r > i+1 {
				t.Errorf("%d connections and %d responses after %d requests, of which %d were dropped", c, r, i+1, dropped)
			}
			return nil
		})
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
