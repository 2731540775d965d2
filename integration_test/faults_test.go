package integration_test

import (
	"os"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
)

// fault adds a row to docs/testing.md: see results.Fault.
func fault(t testing.TB, kind, what, how, result string) {
	t.Helper()
	results.Fault(t, kind, what, how, result)
}

// onKernel skips a test that takes long, if it is to run on one kernel only, and
// this is another one: on each of them all tests would take too long for every
// change. "make docs" runs them all.
func onKernel(t *testing.T, kernel string) {
	t.Helper()
	if this := os.Getenv(envKernel); this != "" && this != kernel {
		t.Skipf("takes its turn on kernel %s", kernel)
	}
}
