package integration_test

import (
	"os"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A second Caddy is the certificate authority. The challenge is a handshake on
// the site's own port, which the module serves.
func TestACME(t *testing.T) {
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	f := c.Root.AddFile(t, "f", harness.Large)

	authority := harness.NewCaddy(t)
	authority.Env = append(authority.Env, harness.EnvChallengePort+"="+c.Port)
	authority.Start(t, `
https://localhost:{$PORT} {
	tls internal
	acme_server
}`)

	c.Env = append(c.Env, "ACME_PORT="+authority.Port, "ACME_ROOT="+authority.RootFile())
	c.Start(t, `
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
	before := c.Metrics(t)
	config := c.TLSConfig(t)
	config.RootCAs = authority.Roots(t)
	client := c.Client(t, config)
	harness.WantFile(t, client, c.URL("/f"), f)
	client.CloseIdleConnections()
	c.Expect(t, before, harness.SentByKernel(f.Size))
	if len(c.Log.WithMessage("served key authentication certificate")) == 0 {
		t.Error("the log shows no TLS-ALPN challenge that was served")
	}
}

// The module gets the secrets by the key log; the user's own goes on.
func TestSecretsLog(t *testing.T) {
	harness.RequireKernelTLS(t)
	c, f := harness.StartWithFile(t, harness.Large, `
https://localhost:{$PORT} {
	ktls
	tls internal {
		insecure_secrets_log {$DIR}/secrets
	}
	root {$ROOT}
	file_server
}`)
	var log strings.Builder
	config := c.TLSConfig(t)
	config.KeyLogWriter = &log
	before := c.Metrics(t)
	client := c.Client(t, config)
	harness.WantFile(t, client, c.URL("/f"), f)
	client.CloseIdleConnections()
	c.Expect(t, before, harness.SentByKernel(f.Size))

	secrets, err := os.ReadFile(c.Dir + "/secrets")
	testutil.Must(t, err)
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
	caddyLog, err := os.ReadFile(string(c.Log))
	testutil.Must(t, err)
	for line := range strings.Lines(log.String()) {
		if secret := strings.Fields(line)[2]; strings.Contains(string(caddyLog), secret) {
			t.Error("Caddy's log has a secret")
		}
	}
}
