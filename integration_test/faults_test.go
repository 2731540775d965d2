package integration_test

import (
	"os"
	"strings"
	"testing"
)

// fault adds a row to docs/testing.md: what the test has produced and how, and
// the result, which it has asserted. kind is the heading of the row's table.
// The same row may be told more than once only with the same result.
func fault(t testing.TB, kind, what, how, result string) {
	t.Helper()
	if !t.Failed() {
		t.Logf("fault: %s", strings.Join([]string{kind, what, how, result}, "\t"))
	}
}

// onKernel skips a test that takes long, if it is to run on one kernel only, and
// this is another one: on each of them all tests would take too long for every
// change. "make testing" runs them all.
func onKernel(t *testing.T, kernel string) {
	t.Helper()
	if this := os.Getenv(envKernel); this != "" && this != kernel {
		t.Skipf("takes its turn on kernel %s", kernel)
	}
}
