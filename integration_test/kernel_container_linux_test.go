package integration_test

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// envInside says that the test runs in namespaces of its own.
const envInside = "KTLS_TEST_INSIDE"

// inOwnNetwork runs the test in user and network namespaces of its own, as in a
// container without root, in another process; there it returns true. The test may
// change the parameters of the network. It returns false when all is done.
func inOwnNetwork(t *testing.T) bool {
	t.Helper()
	if os.Getenv(envInside) != "" {
		loopbackUp(t)
		return true
	}
	requireKernelTLS(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), envInside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	output, err := cmd.CombinedOutput()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		missing(t, "needs user namespaces: "+err.Error())
	}
	if err != nil || !strings.Contains(string(output), "PASS: "+t.Name()) {
		t.Errorf("in a network of its own: %v", err)
	}
	t.Logf("in a network of its own:\n%s", output)
	return false
}

// In a container without root, the process has no capability outside of it, and
// needs none once the host has loaded the kernel's module tls. Only
// /proc/net/tls_stat tells there whether it has, and counts the container's
// connections alone.
func TestInContainer(t *testing.T) {
	if inOwnNetwork(t) {
		inContainer(t)
	}
}

func inContainer(t *testing.T) {
	if _, err := os.Stat("/proc/sys/net/ipv4/tcp_available_ulp"); !os.IsNotExist(err) {
		t.Errorf("tcp_available_ulp: %v, want that it does not exist", err)
	}
	if _, err := os.Stat("/proc/net/tls_stat"); err != nil {
		t.Error(err)
	}
	if n := tlsStat(t, "TlsTxSw"); n != 0 {
		t.Errorf("the kernel counts %d connections of others", n)
	}
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", large)
	c.start(t, site)
	c.download(t, c.tlsConfig(t), f, false)
}

func loopbackUp(t testing.TB) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		t.Fatal(err)
	}
}
