//go:build fakekernel && linux

package harness

import (
	"os"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/fakekernel"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// RequireRealKernel skips a test that the fake kernel can't serve, in the build with the
// fake kernel, and says why. Apart from the end of this file, nothing else is left out in
// that build.
func RequireRealKernel(t testing.TB, why string) {
	t.Helper()
	t.Skip("needs a kernel that is not fake: ", why)
}

// countTaken makes this process and each Caddy count in one file what they give to the
// fake kernel. A real kernel counts for all of them. It returns a function that ends
// that.
func countTaken() (end func(), err error) {
	f, err := os.CreateTemp("", "ktls-taken-")
	if err != nil {
		return nil, err
	}
	_ = f.Close()
	return func() { _ = os.Remove(f.Name()) }, os.Setenv(fakekernel.EnvTaken, f.Name())
}

// TLSStat reads a counter of the kernel. It returns 0 if the fake does not keep it.
func TLSStat(t testing.TB, name string) int64 {
	t.Helper()
	if name != "TlsTxSw" {
		return 0
	}
	n, err := fakekernel.Taken()
	testutil.Must(t, err)
	return n
}

// WantInKernel does nothing: the fake does not say how many connections it has now.
func WantInKernel(testing.TB, int64, int64) {}

// WantKernelMetric does nothing, for the same reason.
func WantKernelMetric(testing.TB, *Caddy) {}
