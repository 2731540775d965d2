package harness

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// envInside says that the test runs in its own namespaces.
const envInside = "KTLS_TEST_INSIDE"

// InOwnNetwork runs the test in another process, in user and network namespaces of its
// own, as in a container without root. There it returns true, and the test may change the
// parameters of the network. In the first process it returns false when the other has
// ended.
func InOwnNetwork(t *testing.T) bool {
	t.Helper()
	if os.Getenv(envInside) != "" {
		loopbackUp(t)
		return true
	}
	RequireKernelTLS(t)
	self, err := os.Executable()
	testutil.Must(t, err)
	cmd := exec.Command(self, "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), envInside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	output, err := cmd.CombinedOutput()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		testutil.Missing(t, "needs user namespaces: "+err.Error())
	}
	if err != nil || !strings.Contains(string(output), "PASS: "+t.Name()) {
		t.Errorf("in a network of its own: %v", err)
	}
	t.Logf("in a network of its own:\n%s", output)
	return false
}

// Sysctl sets a parameter of the network, which must be the test's own.
func Sysctl(t testing.TB, name, value string) {
	t.Helper()
	file := filepath.Join("/proc/sys/net", name)
	testutil.Must(t, os.WriteFile(file, []byte(value), 0))
	got, err := os.ReadFile(file)
	testutil.Must(t, err)
	if got := strings.Join(strings.Fields(string(got)), " "); got != value {
		t.Fatalf("%s is %s, want %s", name, got, value)
	}
}

// loopbackUp starts the interface lo.
func loopbackUp(t testing.TB) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	testutil.Must(t, err)
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	testutil.Must(t, err)
	lo.SetUint16(unix.IFF_UP)
	testutil.Must(t, unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo))
}
