package integration_test

import (
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// The same connections are resumed at sites with the module and at sites without,
// with sessions that may have been made with another site and under another key.
func TestResumptionRates(t *testing.T) {
	harness.RequireKernelTLS(t)
	const visits, period = 24, 8
	certificate := testutil.SelfSigned(t)
	for _, rotated := range []bool{false, true} {
		t.Run(fmt.Sprintf("rotated=%t", rotated), func(t *testing.T) {
			c := harness.NewCaddy(t)
			f := c.Root.AddFile(t, "f", harness.MinSize)
			trust(c, certificate)
			sites := threeSites("{$PORT}", "ktls") + threeSites("{$PORT2}", "")
			if rotated {
				harness.StartWithTickets(t, c, sites, harness.TwoKeys)
			} else {
				c.Start(t, sites)
			}
			before := c.Metrics(t)
			with, without := newVisitor(c.Port), newVisitor(c.Getenv("PORT2"))
			random := rand.New(rand.NewPCG(3, 4))
			anyResumed := false
			for i := range visits {
				if rotated && i > 0 && i%period == 0 {
					harness.RotateTicketKeys(t, c)
				}
				name := siteNames[random.IntN(len(siteNames))]
				version := harness.TLSVersions[random.IntN(len(harness.TLSVersions))]
				kept := random.IntN(2)
				resumed := func(v *visitor) bool {
					config := c.Resuming(t, version, v.sessions[version][kept])
					config.ServerName = name
					config.InsecureSkipVerify = true // so that a session of another name is presented
					config.Certificates = []tls.Certificate{certificate}
					client := c.Client(t, config)
					resp := harness.Get(t, client, "https://"+name+":"+v.port+"/f")
					client.CloseIdleConnections()
					harness.WantBody(t, resp, http.StatusOK, f.Digest)
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
			c.Expect(t, before, harness.SentTimes(visits, visits, visits*f.Size))
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
	for _, version := range harness.TLSVersions {
		v.sessions[version] = [2]tls.ClientSessionCache{
			tls.NewLRUClientSessionCache(len(siteNames)), &harness.Session{Held: true},
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
