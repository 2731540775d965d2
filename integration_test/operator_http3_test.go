package integration_test

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"
)

// The page's sites advertise HTTP/3, and listen on UDP, where they shall and only
// there.
func TestHTTP3Page(t *testing.T) {
	requireKernelTLS(t)
	const page = "docs/http3.md"
	sites := blocks(t, page, "caddyfile")
	if len(sites) != 3 {
		t.Fatalf("%s has %d Caddyfiles, want 3", page, len(sites))
	}
	for _, test := range []struct{ name, site, altSvc string }{
		{"default", site, `h3=":`},
		{"left out", sites[0], ""},
		{"forgotten", sites[1], "clear"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newCaddy(t)
			f := c.addFile(t, "f", large)
			config := test.site
			if config != site {
				config = replaced(t, config, "example.com", "https://localhost:{$PORT}", "/srv/www", "{$ROOT}")
			}
			c.start(t, config)
			before := c.metrics(t)
			resp := c.get(t, "/f")
			wantBody(t, resp, http.StatusOK, f.digest)
			c.expect(t, before, sentByKernel(f.size))
			if got := resp.Header.Get("Alt-Svc"); !strings.HasPrefix(got, test.altSvc) || (test.altSvc == "") != (got == "") {
				t.Errorf("Alt-Svc: %q, want %q", got, test.altSvc)
			}
			wantHTTP3(t, "127.0.0.1:"+c.port, test.name == "default")
		})
	}
	t.Run("two addresses", func(t *testing.T) {
		c := newCaddy(t)
		f := c.addFile(t, "f", large)
		c.start(t, replaced(t, sites[2], "192.0.2.2:443", "127.0.0.2:{$PORT}", "192.0.2.1", "127.0.0.1",
			"192.0.2.2\n", "127.0.0.2\n", "www.example.com", "https://www.localhost:{$PORT}",
			"downloads.example.com", "https://downloads.localhost:{$PORT}", "/srv/www", "{$ROOT}", "/srv/downloads", "{$ROOT}"))
		for _, test := range []struct {
			host, address string
			http3         bool
			want          counts
		}{
			{"www.localhost", "127.0.0.1", true, counts{}},
			{"downloads.localhost", "127.0.0.2", false, sentByKernel(f.size)},
		} {
			address := net.JoinHostPort(test.address, c.port)
			before := c.metrics(t)
			client := c.client(t, nil)
			client.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, address)
			}
			wantBody(t, do(t, client, http.MethodGet, "https://"+test.host+":"+c.port+"/f"), http.StatusOK, f.digest)
			client.CloseIdleConnections()
			c.expect(t, before, test.want)
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
