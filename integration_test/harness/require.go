package harness

import (
	"fmt"
	"os/exec"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// RequireKernelTLS is [testutil.RequireKernelTLS] for the kernel of this machine.
func RequireKernelTLS(t testing.TB) {
	t.Helper()
	testutil.RequireKernelTLS(t, ktls.Probe)
}

// RequireNoKernelTLS skips the test where the kernel has TLS.
func RequireNoKernelTLS(t testing.TB) {
	t.Helper()
	if _, err := ktls.Probe(); err == nil {
		t.Skip("needs a kernel without kernel TLS")
	}
}

// RequireProgram skips or fails the test, as RequireKernelTLS does, where a client
// program is missing.
func RequireProgram(t testing.TB, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		testutil.Missing(t, fmt.Sprintf("needs the program %s: %v", name, err))
	}
}

// Rekeys reports whether the kernel can follow a KeyUpdate.
func Rekeys(t testing.TB) bool {
	t.Helper()
	support, err := ktls.Probe()
	testutil.Must(t, err)
	return support.Rekey
}
