package harness

import (
	"os"
	"testing"
)

// OnKernel skips a test that takes long if it should run on one kernel only, and this is
// another. On each kernel, all tests would take too long for every change. "make docs"
// runs them all.
func OnKernel(t testing.TB, kernel string) {
	t.Helper()
	if this := os.Getenv(EnvKernel); this != "" && this != kernel {
		t.Skipf("takes its turn on kernel %s", kernel)
	}
}
