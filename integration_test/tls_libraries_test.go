package integration_test

import (
	"crypto/tls"
	"fmt"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
)

// reporting is a site that says in each response what the connection is.
const reporting = `
	ktls
	header Connection-Is "{http.request.tls.cipher_suite} {http.request.tls.resumed}"
	root {$ROOT}
	file_server
`

func wantConnection(t testing.TB, r harness.Response, suite *tls.CipherSuite, resumed bool) {
	t.Helper()
	if got, want := r.Header.Get("Connection-Is"), fmt.Sprintf("%s %t", suite.Name, resumed); got != want {
		t.Errorf("the connection is %s, want %s", got, want)
	}
}

func TestPeers(t *testing.T) {
	harness.OnKernel(t, "6.1")
	harness.RequireKernelTLS(t)
	c, f := harness.StartWithFile(t, 1<<20, "https://localhost:{$PORT} {"+reporting+"}")
	for _, program := range harness.Programs {
		for _, id := range []uint16{
			tls.TLS_AES_256_GCM_SHA384, tls.TLS_CHACHA20_POLY1305_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
		} {
			suite := harness.SuiteByID(id)
			t.Run(program.Name+" "+suite.Name, func(t *testing.T) {
				before := c.Metrics(t)
				p := harness.Connect(t, c.Site, program, "localhost", suite)
				for _, resumed := range []bool{false, true} {
					switch {
					case !resumed:
					case program.Resume != "":
						p.Send(t, program.Resume)
					default:
						p.Leave(t)
						p = harness.Connect(t, c.Site, program, "localhost", suite)
					}
					wantConnection(t, p.WantFile(t, "/f", f), suite, resumed)
				}
				p.Leave(t)
				c.Expect(t, before, harness.SentTimes(2, 2, 2*f.Size))
			})
		}
	}
}
