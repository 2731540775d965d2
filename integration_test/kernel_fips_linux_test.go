package integration_test

import (
	"crypto/tls"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
)

// fipsKernel reports whether the kernel is in FIPS mode, in which it does without
// algorithms that FIPS 140 does not approve.
func fipsKernel() bool {
	enabled, _ := os.ReadFile("/proc/sys/crypto/fips_enabled")
	return strings.TrimSpace(string(enabled)) == "1"
}

// A kernel in FIPS mode has AES-GCM, but not ChaCha20-Poly1305.
func TestFIPSKernel(t *testing.T) {
	if !fipsKernel() {
		t.Skip("needs a kernel in FIPS mode")
	}
	harness.RequireKernelTLS(t)
	c, f := harness.StartWithFile(t, harness.Large, harness.BothSites())
	for _, test := range []struct {
		name      string
		args      []string
		offloaded bool
	}{
		{"AES-128-GCM, TLS 1.3", []string{"--tls13-ciphers", "TLS_AES_128_GCM_SHA256"}, true},
		{"AES-256-GCM, TLS 1.3", []string{"--tls13-ciphers", "TLS_AES_256_GCM_SHA384"}, true},
		{"ChaCha20-Poly1305, TLS 1.3", []string{"--tls13-ciphers", "TLS_CHACHA20_POLY1305_SHA256"}, false},
		{"AES-128-GCM, TLS 1.2", []string{"--tls-max", "1.2", "--ciphers", "ECDHE-ECDSA-AES128-GCM-SHA256"}, true},
		{"AES-256-GCM, TLS 1.2", []string{"--tls-max", "1.2", "--ciphers", "ECDHE-ECDSA-AES256-GCM-SHA384"}, true},
		{"ChaCha20-Poly1305, TLS 1.2", []string{"--tls-max", "1.2", "--ciphers", "ECDHE-ECDSA-CHACHA20-POLY1305"}, false},
	} {
		for _, version := range []string{"--http1.1", "--http2"} {
			t.Run(test.name+", "+version, func(t *testing.T) {
				before := c.Metrics(t)
				args := append([]string{version}, test.args...)
				c.WantCurl(t, f, append(args, c.URL("/f"))...)
				c.Stock().WantCurl(t, f, append(args, c.Stock().URL("/f"))...)
				want := harness.SentByKernel(f.Size)
				if !test.offloaded {
					want = harness.Counts{"connections:cipher": 1, "responses:cipher": 1}
				}
				c.Expect(t, before, want)
			})
		}
	}
	text, result, code := check(t, c)
	if code != 0 || !*result.Kernel.FIPS || !strings.Contains(text, " in FIPS mode: without ChaCha20-Poly1305;") || strings.Contains(text, "modprobe") {
		t.Errorf("exit code %d, %+v", code, result)
	}
	for _, test := range result.Ciphers {
		if test.Works != strings.HasPrefix(test.Cipher, "AES-") {
			t.Errorf("%+v", test)
		}
	}
	status, _, code := c.Command(t, "ktls", "status", "--address", "unix/"+c.Socket)
	if code != 0 || !strings.Contains(status, "offloaded 8, cipher 4") {
		t.Errorf("exit code %d\n%s", code, status)
	}
	results.Fault(t, "Kernel failures", "the kernel is in FIPS mode (fips=1)",
		"TLS 1.3 and TLS 1.2 with each cipher, HTTP/1.1 and HTTP/2", "AES-GCM: by sendfile; ChaCha20-Poly1305: copied, reason `cipher`; bodies whole")
}

// Go's FIPS mode has nothing to do with the kernel's. fips140=only forbids what the proof
// of the record number needs.
func TestFIPSGo(t *testing.T) {
	harness.OnKernel(t, "6.12")
	harness.RequireRealKernel(t, "the check looks at the kernel's module")
	harness.RequireKernelTLS(t)
	t.Run("on", func(t *testing.T) { testFIPSGo(t, "on", true) })
	t.Run("only", func(t *testing.T) { testFIPSGo(t, "only", false) })
}

func testFIPSGo(t *testing.T, mode string, offloaded bool) {
	c := harness.NewCaddy(t)
	f := c.Root.AddFile(t, "f", harness.Large)
	c.Env = append(c.Env, "GODEBUG=fips140="+mode)
	c.Start(t, harness.BothSites())
	for _, protocol := range harness.Protocols {
		for _, version := range harness.TLSVersions {
			before := c.Metrics(t)
			suite := c.SameAsStock(t, func(site harness.Site) string {
				config := site.TLSConfig(t, protocol)
				config.MaxVersion = version
				client := site.Client(t, config)
				defer client.CloseIdleConnections()
				resp := harness.Get(t, client, site.URL("/f"))
				harness.WantBody(t, resp, http.StatusOK, f.Digest)
				return tls.CipherSuiteName(resp.TLS.CipherSuite) + ", " + resp.TLS.CurveID.String()
			})
			if !strings.Contains(suite, "_AES_128_GCM_SHA256") {
				t.Error(suite)
			}
			want := harness.SentByKernel(f.Size)
			if !offloaded {
				want = harness.Counts{"connections:fips": 1, "responses:fips": 1}
			}
			c.Expect(t, before, want)
		}
	}
	// The check tells FIPS mode from a fault.
	text, result, code := check(t, c)
	if result.Works != offloaded || (code == 0) != offloaded || !*result.Go.FIPS || strings.Contains(text, "FAIL") == offloaded {
		t.Errorf("exit code %d, %+v", code, result)
	}
	how := "TLS 1.3 and TLS 1.2, HTTP/1.1 and HTTP/2"
	if offloaded {
		results.Fault(t, "Kernel failures", "Go is in FIPS mode (GODEBUG=fips140=on)", how, "by sendfile, with the suites of stock Caddy; body whole")
	} else {
		results.Fault(t, "Kernel failures", "Go enforces FIPS 140 (GODEBUG=fips140=only)", how, "copied, reason `fips`; body whole")
	}
}
