package testutil

import (
	"fmt"
	"os"
	"testing"
)

// EnvRequired is the environment variable that, if not empty, makes every test fail that
// would be skipped because kernel TLS or a client program is missing.
const EnvRequired = "KTLS_REQUIRED"

// Required reports whether EnvRequired is set.
func Required() bool { return os.Getenv(EnvRequired) != "" }

// Missing skips the test because something is missing, or fails it where everything
// is required.
func Missing(t testing.TB, what string) {
	t.Helper()
	if Required() {
		t.Fatalf("%s is set: %s", EnvRequired, what)
	}
	t.Skip(what)
}

// RequireKernelTLS skips the test where the kernel has no TLS, or fails it where
// everything is required. probe is Probe of package ktls. RequireKernelTLS returns what
// it finds. The fake kernel has TLS.
func RequireKernelTLS[S any](t testing.TB, probe func() (S, error)) (support S) {
	t.Helper()
	support, err := probe()
	if err != nil {
		Missing(t, fmt.Sprintf("needs kernel TLS: %v", err))
	}
	return support
}
