package ktls

import (
	"bytes"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// In a network namespace without 127.0.0.1 the probe uses what address there is.
func TestKernelProbeNamespace(t *testing.T) {
	const child = "KTLS_TEST_NAMESPACE"
	if os.Getenv(child) != "" {
		for _, step := range []string{"link set lo up", "addr add 10.1.2.3/32 dev lo", "addr del 127.0.0.1/8 dev lo", "addr del ::1/128 dev lo"} {
			if out, err := exec.Command("sh", "-c", "ip "+step).CombinedOutput(); err != nil {
				t.Logf("ip %s: %s%v", step, out, err) // there may be no IPv6
			}
		}
		if near, far, err := connected([]string{"127.0.0.1", "::1"}); err == nil {
			near.Close()
			far.Close()
			t.Fatal("the namespace has a loopback address")
		}
		if support, err := probeSuites(newSocket); err != nil || !support.Has(suites[0].id) {
			t.Errorf("probe: %v, %v", support, err)
		}
		return
	}
	testutil.RequireKernelTLS(t, Probe)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestKernelProbeNamespace$", "-test.v")
	cmd.Env = append(os.Environ(), child+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: TestKernelProbeNamespace")) {
		t.Errorf("%v\n%s", err, out)
	}
}
