package integration_test

import (
	"os"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
)

// In a container without root, the process has no capability outside of it, and
// needs none once the host has loaded the kernel's module tls. Only
// /proc/net/tls_stat tells there whether it has, and counts the container's
// connections alone.
func TestInContainer(t *testing.T) {
	harness.RequireRealKernel(t, "looks for /proc/net/tls_stat in the container")
	if !harness.InOwnNetwork(t) {
		return
	}
	if _, err := os.Stat("/proc/sys/net/ipv4/tcp_available_ulp"); !os.IsNotExist(err) {
		t.Errorf("tcp_available_ulp: %v, want that it does not exist", err)
	}
	if _, err := os.Stat("/proc/net/tls_stat"); err != nil {
		t.Error(err)
	}
	if n := harness.TLSStat(t, "TlsTxSw"); n != 0 {
		t.Errorf("the kernel counts %d connections of others", n)
	}
	harness.RequireKernelTLS(t)
	c, f := harness.StartWithFile(t, harness.Large, harness.FileSite)
	harness.WantOffloaded(t, c, c.TLSConfig(t), "/f", f, false)
}
