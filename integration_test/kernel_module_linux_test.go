package integration_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// What the kernel runs to load a module.
const modprobeSetting = "/proc/sys/kernel/modprobe"

// ownModule returns the file of a module of the kernel. It skips the test but in a virtual
// machine of ./run: on other machines nobody may change what concerns all programs.
func ownModule(t *testing.T, name string) string {
	t.Helper()
	files, err := filepath.Glob("/modules/*-" + name + ".ko")
	testutil.Must(t, err)
	if len(files) != 1 {
		t.Skip("needs a virtual machine of its own, where the kernel's modules and parameters can be changed")
	}
	return files[0]
}

// load loads a module of the kernel.
func load(t *testing.T, file string) {
	t.Helper()
	module, err := os.Open(file)
	testutil.Must(t, err)
	defer module.Close()
	if err := unix.FinitModule(int(module.Fd()), "", 0); err != nil && err != unix.EEXIST {
		t.Errorf("%s can't be loaded: %v", file, err)
	}
}

// unloadTLS removes the kernel's module tls until the end of the test. What the
// kernel runs to load it is a script.
func unloadTLS(t *testing.T, dir string) (setModprobe func(script string)) {
	t.Helper()
	file := ownModule(t, "tls")
	before, err := os.ReadFile(modprobeSetting)
	testutil.Must(t, err)
	script := filepath.Join(dir, "modprobe")
	setModprobe = func(text string) {
		testutil.Must(t, os.WriteFile(script, []byte("#!/bin/sh\n"+strings.ReplaceAll(text, "MODULE", file)+"\n"), 0o700))
		testutil.Must(t, os.WriteFile(modprobeSetting, []byte(script), 0))
	}
	t.Cleanup(func() {
		testutil.Must(t, os.WriteFile(modprobeSetting, before, 0))
		load(t, file)
	})
	testutil.Eventually(t, "the module tls is removed", func() error { return unix.DeleteModule("tls", unix.O_NONBLOCK) })
	return setModprobe
}

const (
	forbidding = "exit 1"
	loading    = "exec insmod MODULE"
)

// The module is removed while Caddy runs, and may not be loaded, or not by this
// Caddy, or it is loaded when it is needed.
func TestModuleUnloaded(t *testing.T) {
	harness.RequireKernelTLS(t)
	c, f := harness.StartWithFile(t, harness.Large, harness.FileSite)
	before := c.Metrics(t)
	c.WantFile(t, "/f", f)
	c.Expect(t, before, harness.SentByKernel(f.Size))
	setModprobe := unloadTLS(t, c.Dir)

	setModprobe(forbidding)
	before = c.Metrics(t)
	for _, protocol := range harness.Protocols {
		client := c.ProtocolClient(t, protocol)
		harness.WantFile(t, client, c.URL("/f"), f)
		client.CloseIdleConnections()
	}
	c.Expect(t, before, harness.Counts{"connections:kernel_refused": 2, "responses:kernel_refused": 2})
	for _, entry := range c.Log.WithReason("kernel_refused") {
		if e := entry.Text("error"); e != "" && !strings.Contains(e, unix.ENOENT.Error()) {
			t.Errorf("the log has the error %q", e)
		}
	}
	results.Fault(t, kernelFailures, "the module tls is removed while Caddy runs, and loading it forbidden", "delete_module(2); the kernel's modprobe fails, as for a module on a blocklist",
		"bodies whole, copied, reason `kernel_refused`")

	// Root of another user namespace has no capability where it matters.
	setModprobe(loading)
	other := harness.NewCaddy(t)
	g := other.Root.AddFile(t, "g", harness.Large)
	other.Under = []string{"unshare", "-U", "-r"}
	other.Start(t, harness.FileSite)
	before = other.Metrics(t)
	for _, protocol := range harness.Protocols {
		client := other.ProtocolClient(t, protocol)
		harness.WantFile(t, client, other.URL("/g"), g)
		client.CloseIdleConnections()
	}
	other.Expect(t, before, harness.Unsupported(2, 2))
	if len(other.Log.WithReason("kernel_unsupported")) == 0 {
		t.Error("the log does not have the reason kernel_unsupported")
	}
	if _, err := os.Stat("/proc/net/tls_stat"); err == nil {
		t.Error("the module was loaded for a process without capabilities")
	}
	results.Fault(t, kernelFailures, "the module tls is not loaded when a Caddy without CAP_NET_ADMIN starts", "unshare(1), user namespace; the kernel's modprobe would load it",
		"bodies whole, copied, reason `kernel_unsupported`")

	// The first Caddy has CAP_NET_ADMIN.
	before = c.Metrics(t)
	c.WantFile(t, "/f", f)
	c.Expect(t, before, harness.SentByKernel(f.Size))
	results.Fault(t, kernelFailures, "the module tls is not loaded when a connection is to be moved", "delete_module(2); the kernel's modprobe loads it, Caddy has CAP_NET_ADMIN",
		"module loaded by the kernel, connection offloaded; body whole")

	// The other one looks again when it is reloaded.
	before = other.Metrics(t)
	other.WantFile(t, "/g", g)
	other.Expect(t, before, harness.Unsupported(1, 1))
	other.Reload(t, harness.FileSite)
	before = other.Metrics(t)
	other.WantFile(t, "/g", g)
	other.Expect(t, before, harness.SentByKernel(g.Size))
	if n := other.Metric(t, "caddy_ktls_available"); n != 1 {
		t.Errorf("caddy_ktls_available is %v", n)
	}
	results.Fault(t, kernelFailures, "the module tls is loaded after Caddy has started without it", "then a reload of the same configuration",
		"offloaded from then on")
}
