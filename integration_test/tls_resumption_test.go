package integration_test

import (
	"crypto/tls"
	"encoding/base64"
	"os"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// Without configuration, each of Caddy's servers has ticket keys of its own.
func TestResumption(t *testing.T) {
	harness.RequireKernelTLS(t)
	for _, offload := range []string{"large", "all"} {
		t.Run(offload, func(t *testing.T) {
			c, f := harness.StartWithFile(t, harness.Large, harness.OffloadSite(offload))
			for _, version := range harness.TLSVersions {
				t.Run(tls.VersionName(version), func(t *testing.T) {
					config := c.Resuming(t, version, tls.NewLRUClientSessionCache(4))
					for i := range 3 {
						harness.WantOffloaded(t, c, config, "/f", f, i > 0)
					}
				})
			}
		})
	}
}

// Connections over HTTP/3, which Caddy serves itself, don't change whose tickets
// are accepted over TCP.
func TestResumptionAfterHTTP3(t *testing.T) {
	harness.RequireKernelTLS(t)
	c, f := harness.StartWithFile(t, harness.Large, harness.FileSite+`
http://localhost:{$PORT2} {
	reverse_proxy https://127.0.0.1:{$PORT} {
		transport http {
			versions 3
			tls_server_name localhost
			tls_insecure_skip_verify
		}
		header_up Host localhost
	}
}`)
	held := hold(t, c, f)
	before := c.Metrics(t)
	client := c.Client(t, nil)
	harness.WantFile(t, client, "http://localhost:"+c.Getenv("PORT2")+"/f", f)
	client.CloseIdleConnections()
	c.Expect(t, before, harness.Counts{"responses:not_offloadable": 1})
	present(t, c, "after", held, f, true)
}

// Caddy accepts the tickets of as many keys as it is told to keep.
func TestResumptionRotation(t *testing.T) {
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	f := c.Root.AddFile(t, "f", harness.Large)
	harness.StartWithTickets(t, c, harness.FileSite+harness.StockSite, harness.TwoKeys)
	held := hold(t, c, f)
	harness.RotateTicketKeys(t, c)
	present(t, c, "with the previous key", held, f, true)
	harness.RotateTicketKeys(t, c)
	present(t, c, "with a key that is gone", held, f, false)
	present(t, c, "with the new key", hold(t, c, f), f, true)
}

// The keys in the storage outlive the process, and others may use them.
func TestResumptionSharedKeys(t *testing.T) {
	harness.RequireKernelTLS(t)
	one, two := harness.NewCaddy(t), harness.NewCaddy(t)
	f := one.Root.AddFile(t, "f", harness.Large)
	two.Root.AddFile(t, "f", harness.Large)
	harness.StartWithTickets(t, one, harness.FileSite, harness.TwoKeys)
	testutil.Must(t, os.Symlink(one.Storage(), two.Storage()))
	harness.StartWithTickets(t, two, harness.FileSite, harness.TwoKeys)
	held := hold(t, one, f)
	present(t, two, "at the other", held, f, true)
	one.Stop(t)
	harness.StartWithTickets(t, one, harness.FileSite, harness.TwoKeys)
	present(t, one, "after a restart", held, f, true)
	present(t, one, "and back", hold(t, two, f), f, true)
}

// Where tickets are disabled, which Caddy does by itself where clients have
// certificates, none is resumed.
func TestNoResumption(t *testing.T) {
	harness.RequireKernelTLS(t)
	certificate := testutil.SelfSigned(t)
	for _, test := range []struct{ name, directive, tickets string }{
		{"disabled", "", `{"disabled": true}`},
		{"client certificates", clientAuth, `{}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := harness.NewCaddy(t)
			f := c.Root.AddFile(t, "f", harness.Large)
			trust(c, certificate)
			harness.StartWithTickets(t, c, `
https://localhost:{$PORT} {
	ktls
	`+test.directive+`
	root {$ROOT}
	file_server
}`, test.tickets)
			for _, version := range harness.TLSVersions {
				t.Run(tls.VersionName(version), func(t *testing.T) {
					config := c.Resuming(t, version, tls.NewLRUClientSessionCache(4))
					config.Certificates = []tls.Certificate{certificate}
					for range 2 {
						harness.WantOffloaded(t, c, config, "/f", f, false)
					}
				})
			}
		})
	}
}

// hold returns sessions of both versions, fresh from the site.
func hold(t testing.TB, c *harness.Caddy, f harness.File) map[uint16]*harness.Session {
	t.Helper()
	sessions := map[uint16]*harness.Session{}
	for _, version := range harness.TLSVersions {
		sessions[version] = &harness.Session{Held: true}
		harness.WantOffloaded(t, c, c.Resuming(t, version, sessions[version]), "/f", f, false)
	}
	return sessions
}

// present downloads with sessions of both versions, and with those that it gets
// instead if they are refused.
func present(t *testing.T, c *harness.Caddy, when string, sessions map[uint16]*harness.Session, f harness.File, resumed bool) {
	t.Helper()
	for _, version := range harness.TLSVersions {
		t.Run(tls.VersionName(version)+" "+when, func(t *testing.T) {
			harness.WantOffloaded(t, c, c.Resuming(t, version, sessions[version]), "/f", f, resumed)
		})
	}
}

// clientAuth wants clients with the certificate that trust names.
const clientAuth = `tls {
		client_auth {
			mode require_and_verify
			trust_pool inline {
				trust_der {$CLIENT}
			}
		}
	}`

func trust(c *harness.Caddy, certificate tls.Certificate) {
	c.Env = append(c.Env, "CLIENT="+base64.StdEncoding.EncodeToString(certificate.Certificate[0]))
}
