package integration_test

import (
	"crypto/tls"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
)

func TestCiphers(t *testing.T) {
	harness.RequireKernelTLS(t)
	c, f := harness.StartWithFile(t, harness.Large, harness.FileSite)
	for _, cipher := range []string{
		"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256",
	} {
		t.Run(cipher, func(t *testing.T) {
			before := c.Metrics(t)
			c.WantCurl(t, f, "--tlsv1.3", "--tls13-ciphers", cipher, c.URL("/f"))
			c.Expect(t, before, harness.SentByKernel(f.Size))
		})
	}
}

// With a group that curl names but has no key share for, the server answers the
// first ClientHello with a HelloRetryRequest.
func TestHelloRetryRequest(t *testing.T) {
	harness.RequireKernelTLS(t)
	for _, offload := range []string{"large", "all"} {
		t.Run(offload, func(t *testing.T) {
			c, f := harness.StartWithFile(t, harness.Large, `
https://localhost:{$PORT} {
	ktls {
		offload `+offload+`
	}
	tls internal {
		curves x25519
	}
	root {$ROOT}
	file_server
}`)
			before := c.Metrics(t)
			c.WantCurl(t, f, "--tlsv1.3", "--curves", "P-256:X25519", c.URL("/f"))
			c.Expect(t, before, harness.SentByKernel(f.Size))
		})
	}
}

// The kernel can't do the CBC suites of TLS 1.2, which Caddy has to be told to
// speak. Older versions Caddy doesn't speak at all.
func TestTLS12(t *testing.T) {
	harness.RequireKernelTLS(t)
	const times = 3
	c, f := harness.StartWithFile(t, harness.Large, `
https://localhost:{$PORT} {
	ktls
	tls {
		ciphers TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA
	}
	root {$ROOT}
	file_server
}`)
	moved := harness.SentTimes(times, times, times*f.Size)
	stays := harness.Counts{"connections:cipher": times, "responses:cipher": times}
	tests := []struct {
		cipher uint16
		want   harness.Counts
	}{
		{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, moved},
		{tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, moved},
		{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, stays},
	}
	for _, test := range tests {
		t.Run(tls.CipherSuiteName(test.cipher), func(t *testing.T) {
			before := c.Metrics(t)
			for range times {
				config := c.TLSConfig(t)
				config.MaxVersion, config.CipherSuites = tls.VersionTLS12, []uint16{test.cipher}
				client := c.Client(t, config)
				harness.WantFile(t, client, c.URL("/f"), f)
				client.CloseIdleConnections()
			}
			c.Expect(t, before, test.want)
		})
	}
	c.Log.ExpectReason(t, "cipher", 2*times)
}
