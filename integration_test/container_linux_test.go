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

// A process in user and network namespaces of its own, as in a container without
// root, has no capability outside of them, and needs none once the host has
// loaded the kernel's module tls. Only /proc/net/tls_stat tells there whether it
// has, and counts the container's connections alone.
func TestInContainer(t *testing.T) {
	if os.Getenv(envInside) != "" {
		inContainer(t)
		return
	}
	requireKernelTLS(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run", "^TestInContainer$", "-test.v")
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
	if err != nil || !strings.Contains(string(output), "PASS: TestInContainer") {
		t.Errorf("%v\n%s", err, output)
	}
}

func inContainer(t *testing.T) {
	loopbackUp(t)
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
