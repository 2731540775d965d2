package integration_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// selfSigned returns a certificate for a client.
func selfSigned(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// A second Caddy is the certificate authority. The challenge is a handshake on
// the site's own port, which the module serves.
func TestACME(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", large)

	authority := newCaddy(t)
	authority.env = append(authority.env, envChallengePort+"="+c.port)
	authority.start(t, `
https://localhost:{$PORT} {
	tls internal
	acme_server
}`)

	c.env = append(c.env, "ACME_PORT="+authority.port, "ACME_ROOT="+authority.rootFile())
	c.start(t, `
{
	acme_ca https://localhost:{$ACME_PORT}/acme/local/directory
	acme_ca_root {$ACME_ROOT}
}
https://localhost:{$PORT} {
	ktls
	tls {
		issuer acme {
			disable_http_challenge
			alt_tlsalpn_port {$PORT}
		}
	}
	root {$ROOT}
	file_server
}`)
	before := c.metrics(t)
	config := c.tlsConfig(t)
	config.RootCAs = authority.roots(t)
	client := c.client(t, config)
	resp := do(t, client, http.MethodGet, c.url("/f"))
	client.CloseIdleConnections()
	wantBody(t, resp, http.StatusOK, f.digest)
	c.expect(t, before, sentByKernel(f.size))
	if len(c.entries("served key authentication certificate")) == 0 {
		t.Error("the log shows no TLS-ALPN challenge that was served")
	}
}

// The module gets the secrets by the key log; the user's own goes on.
func TestSecretsLog(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", large)
	c.start(t, `
https://localhost:{$PORT} {
	ktls
	tls internal {
		insecure_secrets_log {$DIR}/secrets
	}
	root {$ROOT}
	file_server
}`)
	var log strings.Builder
	config := c.tlsConfig(t)
	config.KeyLogWriter = &log
	before := c.metrics(t)
	client := c.client(t, config)
	resp := do(t, client, http.MethodGet, c.url("/f"))
	client.CloseIdleConnections()
	wantBody(t, resp, http.StatusOK, f.digest)
	c.expect(t, before, sentByKernel(f.size))

	secrets, err := os.ReadFile(c.dir + "/secrets")
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	for line := range strings.Lines(log.String()) {
		lines++
		if !strings.Contains(string(secrets), line) {
			t.Errorf("the server's log of secrets lacks the client's %s line", strings.Fields(line)[0])
		}
	}
	if lines == 0 {
		t.Error("the client has logged no secret")
	}
	// Nor may they get anywhere else.
	caddyLog, err := os.ReadFile(c.logFile)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(log.String()) {
		if secret := strings.Fields(line)[2]; strings.Contains(string(caddyLog), secret) {
			t.Error("Caddy's log has a secret")
		}
	}
}
