package harness

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// RequireKernelTLS skips the test where the kernel has no TLS, or fails it where
// [EnvRequired] says that the kernel has to have it. The fake kernel has it.
func RequireKernelTLS(t testing.TB) {
	t.Helper()
	if _, err := ktls.Probe(); err != nil {
		Missing(t, fmt.Sprintf("needs kernel TLS: %v", err))
	}
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
		Missing(t, fmt.Sprintf("needs the program %s: %v", name, err))
	}
}

// Missing skips the test because something is missing, or fails it where everything
// is required.
func Missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv(EnvRequired) != "" {
		t.Fatalf("%s is set: %s", EnvRequired, what)
	}
	t.Skip(what)
}

// Rekeys reports whether the kernel can follow a KeyUpdate.
func Rekeys(t testing.TB) bool {
	t.Helper()
	support, err := ktls.Probe()
	Must(t, err)
	return support.Rekey
}
