//go:build !fakekernel || !linux

package harness

import (
	"errors"
	"io/fs"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// RequireRealKernel skips a test that the fake kernel can't serve, in the build with the
// fake kernel, and says why.
func RequireRealKernel(testing.TB, string) {}

// countTaken prepares [TLSStat]. It returns a function that ends that.
func countTaken() (end func(), err error) { return func() {}, nil }

// TLSStat reads a counter of the kernel, by its name in /proc/net/tls_stat. It returns 0
// if the kernel has no TLS.
func TLSStat(t testing.TB, name string) int64 {
	t.Helper()
	statistics, err := ktls.KernelStatistics()
	if errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	testutil.Must(t, err)
	return int64(statistics[name])
}

// WantInKernel fails the test unless the kernel now has so many more connections than
// before.
func WantInKernel(t testing.TB, before, want int64) {
	t.Helper()
	if n := TLSStat(t, "TlsCurrTxSw") - before; n != want {
		t.Errorf("the kernel has %d connections more, want %d", n, want)
	}
}

// WantKernelMetric fails the test unless Caddy's metrics show that the kernel has a
// connection.
func WantKernelMetric(t testing.TB, c *Caddy) {
	t.Helper()
	if n := c.Metric(t, `caddy_ktls_kernel_connections\{mode="(?:software|device)"\}`); n < 1 {
		t.Errorf("the kernel has %v connections", n)
	}
}
