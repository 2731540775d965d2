package integration_test

import (
	"crypto/tls"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil/asynccipher"
)

// The kernel's ciphers are asynchronous. With KTLS_ASYNC=1 in the environment, all tests
// run so.
func TestAsyncCipher(t *testing.T) {
	harness.OnKernel(t, "6.1")
	harness.RequireKernelTLS(t)
	module := ownModule(t, "pcrypt")
	testutil.Must(t, asynccipher.Use())
	t.Cleanup(func() { // when Caddy has ended
		testutil.Eventually(t, "the module pcrypt is removed", func() error { return unix.DeleteModule("pcrypt", unix.O_NONBLOCK) })
		load(t, module)
	})
	c, f := harness.StartWithFile(t, 4<<20, harness.OffloadSite("all"))
	for _, protocol := range harness.Protocols {
		for _, cipher := range []struct {
			name  string
			suite uint16
		}{
			{asynccipher.AESGCM, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384},
			{asynccipher.ChaCha20Poly1305, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256},
		} {
			t.Run(protocol+" "+cipher.name, func(t *testing.T) {
				config := c.TLSConfig(t, protocol)
				config.MaxVersion, config.CipherSuites = tls.VersionTLS12, []uint16{cipher.suite}
				client := c.Client(t, config)
				before := c.Metrics(t)
				for range 2 {
					harness.WantFile(t, client, c.URL("/f"), f)
				}
				if used, err := asynccipher.InUse(cipher.name); !used || err != nil {
					t.Errorf("an asynchronous cipher is used: %v, %v", used, err)
				}
				client.CloseIdleConnections()
				c.Expect(t, before, harness.SentTimes(1, 2, 2*f.Size))
			})
		}
	}
	results.Fault(t, kernelFailures, "the kernel's ciphers are asynchronous", "module pcrypt; AES-GCM and ChaCha20-Poly1305, HTTP/1.1 and HTTP/2", "whole, by sendfile")
}
