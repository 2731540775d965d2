package integration_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// Every connection is offloaded with its first write, so small responses, errors and
// what has no body go through the kernel too.
func TestOffloadAll(t *testing.T) {
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	small := c.Root.AddFile(t, "small", 1000)
	f := c.Root.AddFile(t, "f", harness.Large)
	c.Start(t, `
https://localhost:{$PORT} {
	ktls {
		offload all
	}
	tls internal {
		client_auth {
			mode request
		}
	}
	root {$ROOT}
	file_server
}`)
	tests := []struct {
		name   string
		config func(*tls.Config)
	}{
		{"plain", func(*tls.Config) {}},
		{"with client certificate", func(config *tls.Config) {
			config.Certificates = []tls.Certificate{testutil.SelfSigned(t)}
		}},
		{"without session tickets", func(config *tls.Config) { config.SessionTicketsDisabled = true }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before := c.Metrics(t)
			config := c.TLSConfig(t)
			test.config(config)
			client := c.Client(t, config)
			harness.WantFile(t, client, c.URL("/small"), small)
			harness.WantBody(t, harness.Get(t, client, c.URL("/missing")), http.StatusNotFound, harness.DigestOf(nil))
			harness.WantBody(t, harness.Do(t, client, http.MethodHead, c.URL("/f")), http.StatusOK, harness.DigestOf(nil))
			c.Expect(t, before, harness.Counts{"connections:offloaded": 1})
			harness.WantFile(t, client, c.URL("/f"), f)
			client.CloseIdleConnections()
			c.Expect(t, before, harness.SentByKernel(f.Size))
		})
	}
	t.Run("silent client", func(t *testing.T) {
		before := c.Metrics(t)
		_ = c.Dial(t, c.TLSConfig(t)).Close()
		c.Expect(t, before, harness.Counts{"connections:not_needed": 1}) // nothing was written to it
	})
	// The kernel can't take a connection that the client has reset, which is no fault of
	// the kernel's.
	t.Run("clients that leave at once", func(t *testing.T) {
		before := c.Metrics(t)
		const clients = 20
		for range clients {
			conn := c.Dial(t, c.TLSConfig(t))
			_, err := io.WriteString(conn, "GET /small HTTP/1.1\r\nHost: localhost\r\n\r\n")
			testutil.Must(t, err)
			tcp := conn.NetConn().(*net.TCPConn)
			testutil.Must(t, tcp.SetLinger(0)) // close(2) resets the connection
			testutil.Must(t, tcp.Close())
		}
		testutil.Eventually(t, "all connections are counted", func() error {
			var all int64
			for name, n := range c.Metrics(t) {
				if strings.HasPrefix(name, "connections:") {
					all += n - before[name]
				}
			}
			if all != clients {
				return fmt.Errorf("%d, want %d", all, clients)
			}
			return nil
		})
		for name, n := range c.Metrics(t) {
			switch name {
			case "connections:offloaded", "connections:not_needed", "connections:closing":
			default:
				if n -= before[name]; n > 0 && strings.HasPrefix(name, "connections:") {
					t.Errorf("%d %s: %v", n, name, c.Log.WithReason(strings.TrimPrefix(name, "connections:")))
				}
			}
		}
	})
}
