//go:build !fakekernel || !linux

package integration_test

import (
	"errors"
	"io/fs"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// needKernel names tests in the build with the fake kernel.
var needKernel map[string]string

func countTaken() (end func(), err error) { return func() {}, nil }

// wantInKernel fails the test unless the kernel has so many connections more now
// than before.
func wantInKernel(t testing.TB, before, want int64) {
	t.Helper()
	if n := tlsStat(t, "TlsCurrTxSw") - before; n != want {
		t.Errorf("the kernel has %d connections more, want %d", n, want)
	}
}

// wantKernelMetric fails the test unless Caddy tells that the kernel has a
// connection.
func (c *caddy) wantKernelMetric(t testing.TB) {
	t.Helper()
	if n := c.metric(t, `caddy_ktls_kernel_connections\{mode="(?:software|device)"\}`); n < 1 {
		t.Errorf("the kernel has %v connections", n)
	}
}

// tlsStat reads a counter of the kernel; 0 if it has no kernel TLS.
func tlsStat(t testing.TB, name string) int64 {
	t.Helper()
	statistics, err := ktls.KernelStatistics()
	if errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	must(t, err)
	return int64(statistics[name])
}
