package integration_test

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
)

// A clientVisitor comes over a protocol and a version of TLS.
type clientVisitor struct {
	protocol string
	version  uint16
	shown    string // which certificates, if not all that the mode names
}

var visitors = []clientVisitor{
	{harness.HTTP1, tls.VersionTLS13, ""},
	{harness.HTTP2, tls.VersionTLS13, "none good"},
	{harness.HTTP1, tls.VersionTLS12, "none good"},
}

// config returns the configuration of a client that shows a certificate to a host, or
// none. Others than this way show one only to sites that trust it.
func (v clientVisitor) config(t testing.TB, c *harness.Caddy, host string, certificate *tls.Certificate) *tls.Config {
	t.Helper()
	config := c.TLSConfig(t, v.protocol)
	config.ServerName = host + ".localhost"
	config.MinVersion, config.MaxVersion = v.version, v.version
	if certificate != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil }
	}
	return config
}

// wantDecidedAlike fails the test unless a client gets from both sites with the module
// what it gets from stock Caddy, which it returns.
func wantDecidedAlike(t *testing.T, c *harness.Caddy, config *tls.Config, accepted bool) (stock []harness.Reply) {
	t.Helper()
	ask := sightings
	if !accepted {
		ask = refusal
	}
	stock = ask(t, c.Stock(), config)
	for _, site := range []harness.Site{c.Site, c.At("PORT3")} {
		if ours := ask(t, site, config); !slices.Equal(ours, stock) {
			t.Errorf("%v\nstock Caddy: %v", ours, stock)
		}
	}
	return stock
}

// The module decides nothing about who may have what: whether a connection has
// been offloaded or not, handlers see what they see with stock Caddy, and
// clients are refused alike.
func TestAccessControl(t *testing.T) {
	harness.OnKernel(t, "6.12")
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	certificates := clientCertificates(t, c)
	f := c.Root.AddFile(t, "f.bin", harness.Large)
	c.Start(t, guarded())
	for _, mode := range clientModes {
		t.Run(mode.host, func(t *testing.T) {
			before := c.Metrics(t)
			want := harness.Counts{}
			for _, v := range visitors {
				if v.version == tls.VersionTLS12 && !mode.verifies {
					continue // it would take long, and show nothing new
				}
				all := v.shown
				if all == "" {
					all = mode.shown
				}
				for _, shown := range strings.Fields(all) {
					accepted := strings.Contains(mode.accepts, shown)
					if accepted {
						want["connections:offloaded"] += 2
						want["responses:sendfile"] += 2
						want["sendfile_bytes"] += 2 * f.Size
					} else {
						want["connections:not_needed"] += 2
					}
					config := v.config(t, c, mode.host, certificates[shown])
					t.Logf("%s, %s, certificate %s", v.protocol, tls.VersionName(v.version), shown)
					stock := wantDecidedAlike(t, c, config, accepted)
					if accepted && shown == "good" && mode.mode != "" && !strings.Contains(stock[0].Header, "Client-Is: good") {
						t.Errorf("stock Caddy does not see the certificate: %v", stock[0])
					}
				}
			}
			c.Expect(t, before, want)
		})
	}
	results.Fault(t, "Access control", "Clients with a certificate that is good, expired or unknown, or with none",
		"each mode of client_auth; TLS 1.3 and 1.2, HTTP/1.1 and HTTP/2, before and after the offload",
		"accepted and refused as by stock Caddy; handlers see the same")
	results.Fault(t, "Access control", "Requests for another site's name, or with another client's address",
		"strict_sni_host, remote_ip and client_ip, on one connection before and after the offload", "decided as by stock Caddy")
}

// refusal returns how a client is refused.
func refusal(t *testing.T, site harness.Site, config *tls.Config) []harness.Reply {
	t.Helper()
	conn, err := tls.Dial("tcp", site.Address(), config)
	if err == nil { // TLS 1.3: the client is through first
		defer conn.Close()
		_, err = conn.Read(make([]byte, 1))
	}
	if err == nil || !strings.Contains(err.Error(), "tls: ") {
		t.Fatalf("port %s: a client was not refused: %v", site.Port, err)
	}
	return []harness.Reply{{Text: err.Error()}}
}

// sightings returns what handlers see on a connection that carries small
// responses, then a file, then small ones again.
func sightings(t *testing.T, site harness.Site, config *tls.Config) (all []harness.Reply) {
	t.Helper()
	v, host := harness.NewVisit(t, site, config), config.ServerName
	ask := func(path, host string, status int, headers ...string) string {
		t.Helper()
		r := v.Ask(http.MethodGet, path, append([]string{"Host", host}, headers...)...)
		if r.Status != status {
			t.Errorf("%s of %s for a connection to %s: want status %d: %v", path, host, config.ServerName, status, r)
		}
		all = append(all, r)
		return r.Text
	}
	see := func() {
		t.Helper()
		text := ask("/see", host, http.StatusOK)
		for _, want := range []string{
			"tls.server_name=" + host + ";", "remote=127.0.0.1:CLIENT;",
			fmt.Sprintf("tls.resumed=%t;", v.Conn.ConnectionState().DidResume),
		} {
			if !strings.Contains(text, want) {
				t.Errorf("the handler does not see %s but %s", want, text)
			}
		}
	}
	see()
	ask("/private", host, http.StatusOK, "X-Forwarded-For", "203.0.113.7")
	ask("/f.bin", host, http.StatusOK)
	see()
	for _, address := range []string{"203.0.113.6", "203.0.113.7", "203.0.113.8"} {
		status := http.StatusForbidden
		if address == "203.0.113.7" {
			status = http.StatusOK
		}
		ask("/private", host, status, "X-Forwarded-For", address)
	}
	// The name has to be that of the handshake.
	ask("/see", "nobody.localhost", http.StatusMisdirectedRequest)
	if host != "both.localhost" {
		ask("/see", "both.localhost", http.StatusMisdirectedRequest)
	}
	v.Leave()
	return all
}

// A client that resumes a session gets what it gets from stock Caddy: its own
// site, but not, without a certificate, a site that asks for one.
func TestAccessByResumption(t *testing.T) {
	harness.OnKernel(t, "7.2")
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	clientCertificates(t, c)
	f := c.Root.AddFile(t, "f.bin", harness.Large)
	c.Start(t, guarded())
	for _, version := range harness.TLSVersions {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			before := c.Metrics(t)
			var seen, refused [][]harness.Reply
			for _, site := range []harness.Site{c.Stock(), c.Site, c.At("PORT3")} {
				config := c.Resuming(t, version, new(harness.Session))
				config.ServerName = "open.localhost"
				// The client itself would not show the session to another site.
				config.InsecureSkipVerify = true
				first := harness.NewVisit(t, site, config)
				// With the second answer the connection has been offloaded, or never will be.
				for range 2 {
					first.Ask(http.MethodGet, "/see", "Host", config.ServerName)
				}
				first.Leave()
				seen = append(seen, sightings(t, site, config))
				config = config.Clone()
				config.ServerName = "both.localhost"
				refused = append(refused, refusal(t, site, config))
			}
			if !strings.Contains(seen[0][0].Text, "tls.resumed=true;") {
				t.Errorf("the session was not resumed: %v", seen[0][0])
			}
			for i := 1; i < len(seen); i++ {
				if !slices.Equal(seen[i], seen[0]) {
					t.Errorf("handlers see %v\nwith stock Caddy %v", seen[i], seen[0])
				}
				if !slices.Equal(refused[i], refused[0]) {
					t.Errorf("a client is refused by %v\nby stock Caddy: %v", refused[i], refused[0])
				}
			}
			c.Expect(t, before, harness.Counts{
				"connections:offloaded": 3, "connections:not_needed": 3, "responses:sendfile": 2, "sendfile_bytes": 2 * f.Size,
			})
		})
	}
	results.Fault(t, "Access control", "A session of a site that is open to all", "shown to a site with client_auth, without a certificate; TLS 1.3 and 1.2",
		"refused as by stock Caddy; its own site resumes it")
}
