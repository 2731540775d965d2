package integration_test

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// site is the smallest site that uses the module.
const site = `
https://localhost:{$PORT} {
	ktls
	root {$ROOT}
	file_server
}`

// offloading is site with the option offload.
func offloading(offload string) string {
	return strings.Replace(site, "ktls", "ktls {\n\t\toffload "+offload+"\n\t}", 1)
}

const minSize = 128 << 10 // the default of min_size

// sentOrNot is what a file of this size changes on a connection of its own.
func sentOrNot(size int64) counts {
	if size < minSize {
		return copied()
	}
	return sentByKernel(size)
}

func TestSizes(t *testing.T) {
	requireKernelTLS(t)
	sizes := []int64{0, 1, 4 << 10, minSize - 1, minSize, minSize + 1, minSize + 4096, minSize + 4097, 1 << 20}
	c := newCaddy(t)
	files := make([]file, len(sizes))
	for i, size := range sizes {
		files[i] = c.addFile(t, fmt.Sprint(size), size)
	}
	c.start(t, site)
	for i, size := range sizes {
		t.Run(fmt.Sprintf("Go %d", size), func(t *testing.T) {
			before := c.metrics(t)
			wantBody(t, c.get(t, fmt.Sprintf("/%d", size)), http.StatusOK, files[i].digest)
			c.expect(t, before, sentOrNot(size))
		})
		t.Run(fmt.Sprintf("curl %d", size), func(t *testing.T) {
			before := c.metrics(t)
			if got := c.curl(t, c.url(fmt.Sprintf("/%d", size))); got != files[i].digest {
				t.Errorf("body has %v, want %v", got, files[i].digest)
			}
			c.expect(t, before, sentOrNot(size))
		})
		if size >= minSize-1 && size <= minSize+1 || size == 0 {
			t.Run(fmt.Sprintf("HTTP/2 %d", size), func(t *testing.T) {
				before, client := c.metrics(t), c.http2Client(t)
				wantBody(t, do(t, client, http.MethodGet, c.url(fmt.Sprintf("/%d", size))), http.StatusOK, files[i].digest)
				client.CloseIdleConnections()
				c.expect(t, before, sentOrNot(size))
			})
		}
	}
	fault(t, "Files", "Empty files, and those as long as min_size, one byte more or less", "over HTTP/1.1 and HTTP/2",
		"whole; by sendfile from min_size on")
}

func TestHundredMiB(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", 100<<20)
	c.start(t, site)
	before := c.metrics(t)
	if got := c.curl(t, c.url("/f")); got != f.digest {
		t.Errorf("body has %v, want %v", got, f.digest)
	}
	c.expect(t, before, sentByKernel(f.size))
}

func TestCiphers(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", large)
	c.start(t, site)
	for _, cipher := range []string{
		"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256",
	} {
		t.Run(cipher, func(t *testing.T) {
			before := c.metrics(t)
			got := c.curl(t, "--tlsv1.3", "--tls13-ciphers", cipher, c.url("/f"))
			if got != f.digest {
				t.Errorf("body has %v, want %v", got, f.digest)
			}
			c.expect(t, before, sentByKernel(f.size))
		})
	}
}

// With a group that curl names but has no key share for, the server answers the
// first ClientHello with a HelloRetryRequest.
func TestHelloRetryRequest(t *testing.T) {
	requireKernelTLS(t)
	for _, offload := range []string{"large", "all"} {
		t.Run(offload, func(t *testing.T) {
			c := newCaddy(t)
			f := c.addFile(t, "f", large)
			c.start(t, `
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
			before := c.metrics(t)
			got := c.curl(t, "--tlsv1.3", "--curves", "P-256:X25519", c.url("/f"))
			if got != f.digest {
				t.Errorf("body has %v, want %v", got, f.digest)
			}
			c.expect(t, before, sentByKernel(f.size))
		})
	}
}

func TestMinSize(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", large)
	c.addFile(t, "short", 8<<10)
	c.start(t, `
https://low.localhost:{$PORT} {
	ktls {
		min_size 8KiB
	}
	root {$ROOT}
	file_server
}
https://high.localhost:{$PORT} {
	ktls {
		min_size 1MiB
	}
	root {$ROOT}
	file_server
}`)
	tests := []struct {
		name, url string
		size      int64
		want      counts
	}{
		{"at the low limit", "https://low.localhost:" + c.port + "/short", 8 << 10, sentByKernel(8 << 10)},
		{"below the high limit", "https://high.localhost:" + c.port + "/f", f.size, copied()},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before := c.metrics(t)
			client := c.client(t, nil)
			resp := do(t, client, http.MethodGet, test.url)
			client.CloseIdleConnections()
			if resp.body.size != test.size {
				t.Errorf("body has %d bytes, want %d", resp.body.size, test.size)
			}
			c.expect(t, before, test.want)
		})
	}
}

// The kernel can't do the CBC suites of TLS 1.2, which Caddy has to be told to
// speak. Older versions Caddy doesn't speak at all.
func TestTLS12(t *testing.T) {
	requireKernelTLS(t)
	const times = 3
	c := newCaddy(t)
	f := c.addFile(t, "f", large)
	c.start(t, `
https://localhost:{$PORT} {
	ktls
	tls {
		ciphers TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA
	}
	root {$ROOT}
	file_server
}`)
	moved := counts{
		"connections:offloaded": times, "responses:sendfile": times, "sendfile_bytes": times * f.size,
	}
	stays := counts{"connections:cipher": times, "responses:cipher": times}
	tests := []struct {
		cipher uint16
		want   counts
	}{
		{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, moved},
		{tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, moved},
		{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, stays},
	}
	for _, test := range tests {
		t.Run(tls.CipherSuiteName(test.cipher), func(t *testing.T) {
			before := c.metrics(t)
			for range times {
				config := c.tlsConfig(t)
				config.MaxVersion, config.CipherSuites = tls.VersionTLS12, []uint16{test.cipher}
				client := c.client(t, config)
				wantBody(t, do(t, client, http.MethodGet, c.url("/f")), http.StatusOK, f.digest)
				client.CloseIdleConnections()
			}
			c.expect(t, before, test.want)
		})
	}
	c.expectReason(t, "cipher", 2*times)
}
