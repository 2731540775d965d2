package integration_test

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

var tlsVersions = []uint16{tls.VersionTLS12, tls.VersionTLS13}

// resuming returns a client's configuration for one version of TLS.
func (c *caddy) resuming(t testing.TB, version uint16, cache tls.ClientSessionCache) *tls.Config {
	t.Helper()
	config := c.tlsConfig(t)
	config.MinVersion, config.MaxVersion = version, version
	config.ClientSessionCache = cache
	return config
}

// A session is the cache of a client that knows one session only, and presents
// it to every server.
type session struct {
	state *tls.ClientSessionState
	held  bool // and keeps the first
}

func (s *session) Get(string) (*tls.ClientSessionState, bool) { return s.state, s.state != nil }

func (s *session) Put(_ string, state *tls.ClientSessionState) {
	if !s.held || s.state == nil {
		s.state = state
	}
}

// download gets a file on a connection of its own, which has to be resumed, or
// not, and to be offloaded.
func (c *caddy) download(t testing.TB, config *tls.Config, f file, resumed bool) {
	t.Helper()
	before := c.metrics(t)
	client := c.client(t, config)
	resp := do(t, client, http.MethodGet, c.url("/f"))
	client.CloseIdleConnections()
	wantBody(t, resp, http.StatusOK, f.digest)
	if resp.TLS.DidResume != resumed {
		t.Errorf("resumed: %v, want %v", resp.TLS.DidResume, resumed)
	}
	c.expect(t, before, sentByKernel(f.size))
}

// hold returns sessions of both versions, fresh from the site.
func (c *caddy) hold(t testing.TB, f file) map[uint16]*session {
	t.Helper()
	sessions := map[uint16]*session{}
	for _, version := range tlsVersions {
		sessions[version] = &session{held: true}
		c.download(t, c.resuming(t, version, sessions[version]), f, false)
	}
	return sessions
}

// present downloads with sessions of both versions, and with those that it gets
// instead if they are refused.
func (c *caddy) present(t *testing.T, when string, sessions map[uint16]*session, f file, resumed bool) {
	t.Helper()
	for _, version := range tlsVersions {
		t.Run(tls.VersionName(version)+" "+when, func(t *testing.T) {
			c.download(t, c.resuming(t, version, sessions[version]), f, resumed)
		})
	}
}

// Without configuration, each of Caddy's servers has ticket keys of its own.
func TestResumption(t *testing.T) {
	requireKernelTLS(t)
	for _, offload := range []string{"large", "all"} {
		t.Run(offload, func(t *testing.T) {
			c := newCaddy(t)
			f := c.addFile(t, "f", large)
			c.start(t, offloading(offload))
			for _, version := range tlsVersions {
				t.Run(tls.VersionName(version), func(t *testing.T) {
					config := c.resuming(t, version, tls.NewLRUClientSessionCache(4))
					for i := range 3 {
						c.download(t, config, f, i > 0)
					}
				})
			}
		})
	}
}

// Connections over HTTP/3, which Caddy serves itself, don't change whose tickets
// are accepted over TCP.
func TestResumptionAfterHTTP3(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", large)
	c.start(t, site+`
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
	held := c.hold(t, f)
	before := c.metrics(t)
	client := c.client(t, nil)
	resp := do(t, client, http.MethodGet, "http://localhost:"+c.getenv("PORT2")+"/f")
	client.CloseIdleConnections()
	wantBody(t, resp, http.StatusOK, f.digest)
	c.expect(t, before, counts{"responses:not_offloadable": 1})
	c.present(t, "after", held, f, true)
}

// Caddy accepts the tickets of as many keys as it is told to keep.
func TestResumptionRotation(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", large)
	c.startWithTickets(t, site+stockSite, twoKeys)
	held := c.hold(t, f)
	c.rotate(t)
	c.present(t, "with the previous key", held, f, true)
	c.rotate(t)
	c.present(t, "with a key that is gone", held, f, false)
	c.present(t, "with the new key", c.hold(t, f), f, true)
}

// The keys in the storage outlive the process, and others may use them.
func TestResumptionSharedKeys(t *testing.T) {
	requireKernelTLS(t)
	one, two := newCaddy(t), newCaddy(t)
	f := one.addFile(t, "f", large)
	two.addFile(t, "f", large)
	one.startWithTickets(t, site, twoKeys)
	if err := os.Symlink(one.storage(), two.storage()); err != nil {
		t.Fatal(err)
	}
	two.startWithTickets(t, site, twoKeys)
	held := one.hold(t, f)
	two.present(t, "at the other", held, f, true)
	one.stop(t)
	one.startWithTickets(t, site, twoKeys)
	one.present(t, "after a restart", held, f, true)
	one.present(t, "and back", two.hold(t, f), f, true)
}

func (c *caddy) stop(t testing.TB) {
	t.Helper()
	if err := c.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	select {
	case <-c.exited:
	case <-time.After(patience):
		t.Fatal("Caddy does not end")
	}
}

// Where tickets are disabled, which Caddy does by itself where clients have
// certificates, none is resumed.
func TestNoResumption(t *testing.T) {
	requireKernelTLS(t)
	certificate := selfSigned(t)
	for _, test := range []struct{ name, directive, tickets string }{
		{"disabled", "", `{"disabled": true}`},
		{"client certificates", clientAuth, `{}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newCaddy(t)
			f := c.addFile(t, "f", large)
			c.trust(certificate)
			c.startWithTickets(t, `
https://localhost:{$PORT} {
	ktls
	`+test.directive+`
	root {$ROOT}
	file_server
}`, test.tickets)
			for _, version := range tlsVersions {
				t.Run(tls.VersionName(version), func(t *testing.T) {
					config := c.resuming(t, version, tls.NewLRUClientSessionCache(4))
					config.Certificates = []tls.Certificate{certificate}
					for range 2 {
						c.download(t, config, f, false)
					}
				})
			}
		})
	}
}

// The same connections are resumed at sites with the module and at sites without,
// with sessions that may have been made with another site and under another key.
func TestResumptionRates(t *testing.T) {
	requireKernelTLS(t)
	const visits, period = 24, 8
	certificate := selfSigned(t)
	for _, rotated := range []bool{false, true} {
		t.Run(fmt.Sprintf("rotated=%t", rotated), func(t *testing.T) {
			c := newCaddy(t)
			f := c.addFile(t, "f", minSize)
			c.trust(certificate)
			sites := threeSites("{$PORT}", "ktls") + threeSites("{$PORT2}", "")
			if rotated {
				c.startWithTickets(t, sites, twoKeys)
			} else {
				c.start(t, sites)
			}
			before := c.metrics(t)
			with, without := newVisitor(c.port), newVisitor(c.getenv("PORT2"))
			random := rand.New(rand.NewPCG(3, 4))
			anyResumed := false
			for i := range visits {
				if rotated && i > 0 && i%period == 0 {
					c.rotate(t)
				}
				name := siteNames[random.IntN(len(siteNames))]
				version := tlsVersions[random.IntN(len(tlsVersions))]
				kept := random.IntN(2)
				resumed := func(v *visitor) bool {
					config := c.resuming(t, version, v.sessions[version][kept])
					config.ServerName = name
					config.InsecureSkipVerify = true // so that a session of another name is presented
					config.Certificates = []tls.Certificate{certificate}
					client := c.client(t, config)
					resp := do(t, client, http.MethodGet, "https://"+name+":"+v.port+"/f")
					client.CloseIdleConnections()
					wantBody(t, resp, http.StatusOK, f.digest)
					return resp.TLS.DidResume
				}
				got, want := resumed(with), resumed(without)
				if got != want {
					t.Errorf("visit %d, to %s with %s: resumed: %v, without the module: %v",
						i, name, tls.VersionName(version), got, want)
				}
				anyResumed = anyResumed || want
			}
			if !anyResumed {
				t.Error("no connection is resumed: the test shows nothing")
			}
			c.expect(t, before, counts{
				"connections:offloaded": visits, "responses:sendfile": visits, "sendfile_bytes": visits * f.size,
			})
		})
	}
}

// A visitor is a client of one server: for each version of TLS, it has a cache
// with the latest session of each name, and one with the first session of all.
type visitor struct {
	port     string
	sessions map[uint16][2]tls.ClientSessionCache
}

func newVisitor(port string) *visitor {
	v := &visitor{port, map[uint16][2]tls.ClientSessionCache{}}
	for _, version := range tlsVersions {
		v.sessions[version] = [2]tls.ClientSessionCache{
			tls.NewLRUClientSessionCache(len(siteNames)), &session{held: true},
		}
	}
	return v
}

var siteNames = []string{"localhost", "other.localhost", "client.localhost"}

// threeSites have the names, each a policy of its own, and a directive in common.
func threeSites(port, directive string) string {
	var sites strings.Builder
	for i, policy := range []string{"", otherCiphers, clientAuth} {
		fmt.Fprintf(&sites, `
https://%s:%s {
	%s
	%s
	root {$ROOT}
	file_server
}`, siteNames[i], port, directive, policy)
	}
	return sites.String()
}

const otherCiphers = `tls {
		ciphers TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
	}`

// clientAuth wants clients with the certificate that trust names.
const clientAuth = `tls {
		client_auth {
			mode require_and_verify
			trust_pool inline {
				trust_der {$CLIENT}
			}
		}
	}`

func (c *caddy) trust(certificate tls.Certificate) {
	c.env = append(c.env, "CLIENT="+base64.StdEncoding.EncodeToString(certificate.Certificate[0]))
}
