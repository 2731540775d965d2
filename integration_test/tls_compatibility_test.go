package integration_test

import (
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// TestCompatibility tries every cipher suite that Caddy speaks, with both kinds
// of certificates. docs/compatibility.md shows what it finds.
func TestCompatibility(t *testing.T) {
	harness.RequireKernelTLS(t)
	support, err := ktls.Probe()
	testutil.Must(t, err)
	c, f := harness.StartWithFile(t, 256<<10, compatibilitySites("ecdsa", "p256")+compatibilitySites("rsa", "rsa2048"))
	certificate := clientCertificate(t, c)

	var rows [][]string
	for _, suite := range tls.CipherSuites() {
		outcome, want := "offloaded", harness.SentByKernel(f.Size)
		if !support.Has(suite.ID) {
			outcome, want = "cipher", harness.Counts{"connections:cipher": 1, "responses:cipher": 1}
		}
		for _, key := range []string{"ECDSA", "RSA"} {
			if !harness.IsTLS13(suite) && !strings.Contains(suite.Name, key) {
				continue
			}
			for _, connection := range []string{"fresh", "resumed", withCertificate} {
				t.Run(suite.Name+" "+key+" "+connection, func(t *testing.T) {
					host, args := strings.ToLower(key)+".localhost", []string(nil)
					if connection == withCertificate {
						host, args = "client."+host, []string{"-cert", certificate, "-key", certificate}
					}
					before, taken := c.Metrics(t), harness.TLSStat(t, "TlsTxSw")
					p := harness.Connect(t, c.Site, harness.OpenSSL, host, suite, args...)
					r := p.WantFile(t, "/f", f)
					p.Leave(t)
					wantConnection(t, r, suite, connection == "resumed")
					c.Expect(t, before, want)
					if n := harness.TLSStat(t, "TlsTxSw") - taken; n != want["connections:offloaded"] {
						t.Errorf("TlsTxSw has grown by %d, want %d", n, want["connections:offloaded"])
					}
					_, err := os.Stat(c.SessionFile(host, suite))
					if got, want := err == nil, connection != withCertificate; got != want {
						t.Errorf("there is a session to resume: %t, want %t", got, want)
					}
				})
				rows = append(rows, compatibilityRow(suite, key, connection, outcome))
			}
		}
	}

	outcome := "response completes, then close_notify"
	if support.Rekey {
		outcome = "rekeyed"
	}
	const update = "KeyUpdate by the peer during a download"
	t.Run(update, func(t *testing.T) {
		testKeyUpdateDuringDownload(t, c, "ecdsa.localhost", harness.OpenSSL.UpdateBoth, support.Rekey)
	})
	rows = append(rows, compatibilityRow(harness.SuiteByID(tls.TLS_AES_128_GCM_SHA256), "ECDSA", update, outcome))

	for _, row := range rows {
		results.AddRow(t, results.Compatibility, row...)
	}
}

// withCertificate is a connection whose client has to present a certificate.
// Caddy gives such a client no session to resume.
const withCertificate = "client certificate"

// compatibilitySites are two sites with every cipher suite that can be
// configured, and one kind of key. One of them asks for client certificates.
func compatibilitySites(name, keyType string) string {
	var ciphers []string
	for _, suite := range tls.CipherSuites() {
		if !harness.IsTLS13(suite) {
			ciphers = append(ciphers, suite.Name)
		}
	}
	return fmt.Sprintf(`
(%[1]s) {
	key_type %[2]s
	ciphers %[3]s
}
https://%[1]s.localhost:{$PORT} {
	tls internal {
		import %[1]s
	}
%[4]s}
https://client.%[1]s.localhost:{$PORT} {
	tls internal {
		import %[1]s
		client_auth {
			mode require
		}
	}
%[4]s}`, name, keyType, strings.Join(ciphers, " "), reporting)
}

func compatibilityRow(suite *tls.CipherSuite, key, connection, outcome string) []string {
	version := suite.SupportedVersions[len(suite.SupportedVersions)-1]
	return []string{tls.VersionName(version), suite.Name, key, connection, outcome}
}

// clientCertificate makes a file with a client's certificate and its key.
func clientCertificate(t testing.TB, c *harness.Caddy) string {
	t.Helper()
	public, private := testutil.PEM(t, testutil.SelfSigned(t))
	file := filepath.Join(c.Dir, "client.pem")
	testutil.WriteFile(t, file, append(public, private...))
	return file
}
