package integration_test

import (
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
)

// The page's sites advertise HTTP/3, and listen on UDP, where they shall and only
// there.
func TestHTTP3Page(t *testing.T) {
	harness.RequireKernelTLS(t)
	const page = "docs/http3.md"
	sites := harness.Blocks(t, page, "caddyfile")
	if len(sites) != 3 {
		t.Fatalf("%s has %d Caddyfiles, want 3", page, len(sites))
	}
	for _, test := range []struct{ name, site, altSvc string }{
		{"default", harness.FileSite, `h3=":`},
		{"left out", sites[0], ""},
		{"forgotten", sites[1], "clear"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := harness.NewCaddy(t)
			f := c.Root.AddFile(t, "f", harness.Large)
			config := test.site
			if config != harness.FileSite {
				config = harness.Replaced(t, config, "example.com", "https://localhost:{$PORT}", "/srv/www", "{$ROOT}")
			}
			c.Start(t, config)
			before := c.Metrics(t)
			resp := c.Get(t, "/f")
			harness.WantBody(t, resp, http.StatusOK, f.Digest)
			c.Expect(t, before, harness.SentByKernel(f.Size))
			if got := resp.Header.Get("Alt-Svc"); !strings.HasPrefix(got, test.altSvc) || (test.altSvc == "") != (got == "") {
				t.Errorf("Alt-Svc: %q, want %q", got, test.altSvc)
			}
			wantHTTP3(t, c.Address(), test.name == "default")
		})
	}
	t.Run("two addresses", func(t *testing.T) {
		c, f := harness.StartWithFile(t, harness.Large, harness.Replaced(t, sites[2], "192.0.2.2:443", "127.0.0.2:{$PORT}", "192.0.2.1", "127.0.0.1",
			"192.0.2.2\n", "127.0.0.2\n", "www.example.com", "https://www.localhost:{$PORT}",
			"downloads.example.com", "https://downloads.localhost:{$PORT}", "/srv/www", "{$ROOT}", "/srv/downloads", "{$ROOT}"))
		for _, test := range []struct {
			host, address string
			http3         bool
			want          harness.Counts
		}{
			{"www.localhost", "127.0.0.1", true, harness.Counts{}},
			{"downloads.localhost", "127.0.0.2", false, harness.SentByKernel(f.Size)},
		} {
			address := net.JoinHostPort(test.address, c.Port)
			before := c.Metrics(t)
			client := harness.OverAddress(c.Client(t, nil), "tcp", address)
			harness.WantFile(t, client, "https://"+test.host+":"+c.Port+"/f", f)
			client.CloseIdleConnections()
			c.Expect(t, before, test.want)
			wantHTTP3(t, address, test.http3)
		}
	})
}

// wantHTTP3 checks whether a UDP address is taken.
func wantHTTP3(t testing.TB, address string, want bool) {
	t.Helper()
	conn, err := net.ListenPacket("udp", address)
	if err == nil {
		_ = conn.Close()
	}
	if got := err != nil; got != want {
		t.Errorf("%s listens for HTTP/3: %v, want %v", address, got, want)
	}
}
