//go:build fakekernel && linux

package integration_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/fakekernel"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// needKernel are the tests that the fake kernel can't take, and why. This is the
// only place where this build leaves out something, with the end of this file.
var needKernel = map[string]string{
	"TestCheck":       "looks for the module, and counts what Probe tries",
	"TestInContainer": "looks for /proc/net/tls_stat in the container",
	"TestSystemCalls": "the fake sends by write(2)",

	"TestLyingSandbox":        "the fake makes no setsockopt that could lie",
	"TestCheckInLyingSandbox": "the fake makes no setsockopt that could lie",

	// The race detector needs cgo.
	"TestKernelFailures": "openat(2) waits for a goroutine's permission, and C code calls it where none can run",

	"TestCommands/cat_/proc/net/tls_stat":                           "reads what the fake does not have",
	"TestCommands/grep_Device_/proc/net/tls_stat":                   "reads what the fake does not have",
	"TestCommands/grep_-w_tls_/proc/sys/net/ipv4/tcp_available_ulp": "reads what the fake does not have",
}

// This build offloads connections: what the other tests say in it is worth something.
func TestFakeKernel(t *testing.T) {
	support, err := ktls.Probe()
	if err != nil || !support.Rekey {
		t.Fatalf("Probe: %v, %v", support, err)
	}
	c := newCaddy(t)
	f := c.addFile(t, "f", large)
	c.start(t, site)
	before, taken := c.metrics(t), tlsStat(t, "TlsTxSw")
	for _, protocol := range protocols {
		client := c.protocolClient(t, protocol)
		wantBody(t, do(t, client, http.MethodGet, c.url("/f")), http.StatusOK, f.digest)
		client.CloseIdleConnections()
	}
	c.expect(t, before, counts{"connections:offloaded": 2, "responses:sendfile": 2, "sendfile_bytes": 2 * f.size})
	if n := tlsStat(t, "TlsTxSw") - taken; n != 2 {
		t.Errorf("the fake kernel has taken %d connections, want 2", n)
	}
}

// The tests that need a kernel exist.
func TestNeedKernel(t *testing.T) {
	var all strings.Builder
	files, err := filepath.Glob("*_test.go")
	must(t, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(t, err)
		all.Write(text)
	}
	for name := range needKernel {
		test, _, _ := strings.Cut(name, "/")
		if !strings.Contains(all.String(), "\nfunc "+test+"(t *testing.T) {\n") {
			t.Errorf("needKernel has %s, which is no test", name)
		}
	}
}

// countTaken has this process and each Caddy count in one file what they give to
// the fake kernel, as a real one counts for all. It returns how to end that.
func countTaken() (end func(), err error) {
	f, err := os.CreateTemp("", "ktls-taken-")
	if err != nil {
		return nil, err
	}
	_ = f.Close()
	return func() { _ = os.Remove(f.Name()) }, os.Setenv(fakekernel.EnvTaken, f.Name())
}

// tlsStat reads a counter of the kernel, 0 if the fake does not keep it.
func tlsStat(t testing.TB, name string) int64 {
	t.Helper()
	if name != "TlsTxSw" {
		return 0
	}
	n, err := fakekernel.Taken()
	must(t, err)
	return n
}

// The fake does not tell how many connections it has now.

func wantInKernel(testing.TB, int64, int64)  {}
func (c *caddy) wantKernelMetric(testing.TB) {}
