//go:build linux

package integration_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// TestCompatibility tries every cipher suite that Caddy speaks, with both kinds
// of certificates. docs/compatibility.md shows what it finds.
func TestCompatibility(t *testing.T) {
	requireKernelTLS(t)
	support, err := ktls.Probe()
	if err != nil {
		t.Fatal(err)
	}
	c := newCaddy(t)
	f := c.addFile(t, "f", 256<<10)
	c.start(t, compatibilitySites("ecdsa", "p256")+compatibilitySites("rsa", "rsa2048"))
	certificate := c.clientCertificate(t)

	var rows [][]string
	for _, suite := range tls.CipherSuites() {
		outcome, want := "offloaded", sentByKernel(f.size)
		if !support.Has(suite.ID) {
			outcome, want = "cipher", counts{"connections:cipher": 1, "responses:cipher": 1}
		}
		for _, key := range []string{"ECDSA", "RSA"} {
			if !isTLS13(suite) && !strings.Contains(suite.Name, key) {
				continue
			}
			for _, connection := range []string{"fresh", "resumed", withCertificate} {
				t.Run(suite.Name+" "+key+" "+connection, func(t *testing.T) {
					host, args := strings.ToLower(key)+".localhost", []string(nil)
					if connection == withCertificate {
						host, args = "client."+host, []string{"-cert", certificate, "-key", certificate}
					}
					before, taken := c.metrics(t), tlsStat(t, "TlsTxSw")
					p := c.connect(t, openssl, host, suite, args...)
					r := p.wantFile(t, "/f", f)
					p.leave(t)
					wantConnection(t, r, suite, connection == "resumed")
					c.expect(t, before, want)
					if n := tlsStat(t, "TlsTxSw") - taken; n != want["connections:offloaded"] {
						t.Errorf("TlsTxSw has grown by %d, want %d", n, want["connections:offloaded"])
					}
					_, err := os.Stat(c.sessionFile(host, suite))
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
		c.testKeyUpdateDuringDownload(t, "ecdsa.localhost", openssl.updateBoth, support.Rekey)
	})
	rows = append(rows, compatibilityRow(suiteByID(tls.TLS_AES_128_GCM_SHA256), "ECDSA", update, outcome))

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
		if !isTLS13(suite) {
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
func (c *caddy) clientCertificate(t testing.TB) string {
	t.Helper()
	certificate := selfSigned(t)
	key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	file := filepath.Join(c.dir, "client.pem")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
