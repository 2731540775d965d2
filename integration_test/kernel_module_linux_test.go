package integration_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What the kernel runs to load a module.
const modprobeSetting = "/proc/sys/kernel/modprobe"

// unloadTLS removes the kernel's module tls until the end of the test. What the
// kernel runs to load it is a script. It skips the test but in a virtual machine
// of ./run: other machines may need the module.
func unloadTLS(t *testing.T, dir string) (setModprobe func(script string)) {
	t.Helper()
	files, err := filepath.Glob("/modules/*-tls.ko")
	must(t, err)
	if len(files) != 1 {
		t.Skip("needs a virtual machine of its own, where the module can be removed")
	}
	before, err := os.ReadFile(modprobeSetting)
	must(t, err)
	file := filepath.Join(dir, "modprobe")
	setModprobe = func(script string) {
		must(t, os.WriteFile(file, []byte("#!/bin/sh\n"+strings.ReplaceAll(script, "MODULE", files[0])+"\n"), 0o700))
		must(t, os.WriteFile(modprobeSetting, []byte(file), 0))
	}
	t.Cleanup(func() {
		must(t, os.WriteFile(modprobeSetting, before, 0))
		module, err := os.Open(files[0])
		must(t, err)
		defer module.Close()
		if err := unix.FinitModule(int(module.Fd()), "", 0); err != nil && err != unix.EEXIST {
			t.Errorf("the module tls can't be loaded: %v", err)
		}
	})
	eventually(t, "the module tls is removed", func() error { return unix.DeleteModule("tls", unix.O_NONBLOCK) })
	return setModprobe
}

const (
	forbidding = "exit 1"
	loading    = "exec insmod MODULE"
)

// The module is removed while Caddy runs, and may not be loaded, or not by this
// Caddy, or it is loaded when it is needed.
func TestModuleUnloaded(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", large)
	c.start(t, site)
	before := c.metrics(t)
	wantBody(t, c.get(t, "/f"), http.StatusOK, f.digest)
	c.expect(t, before, sentByKernel(f.size))
	setModprobe := unloadTLS(t, c.dir)

	setModprobe(forbidding)
	before = c.metrics(t)
	for _, protocol := range protocols {
		client := c.protocolClient(t, protocol)
		wantBody(t, do(t, client, http.MethodGet, c.url("/f")), http.StatusOK, f.digest)
		client.CloseIdleConnections()
	}
	c.expect(t, before, counts{"connections:kernel_refused": 2, "responses:kernel_refused": 2})
	for _, entry := range c.withReason("kernel_refused") {
		if e := entry.text("error"); e != "" && !strings.Contains(e, unix.ENOENT.Error()) {
			t.Errorf("the log has the error %q", e)
		}
	}
	fault(t, kernelFailures, "the module tls is removed while Caddy runs, and loading it forbidden", "delete_module(2); the kernel's modprobe fails, as for a module on a blocklist",
		"bodies whole, copied, reason `kernel_refused`")

	// Root of another user namespace has no capability where it matters.
	setModprobe(loading)
	other := newCaddy(t)
	g := other.addFile(t, "g", large)
	other.under = []string{"unshare", "-U", "-r"}
	other.start(t, site)
	before = other.metrics(t)
	for _, protocol := range protocols {
		client := other.protocolClient(t, protocol)
		wantBody(t, do(t, client, http.MethodGet, other.url("/g")), http.StatusOK, g.digest)
		client.CloseIdleConnections()
	}
	other.expect(t, before, counts{})
	if len(other.withReason("kernel_unsupported")) == 0 {
		t.Error("the log does not have the reason kernel_unsupported")
	}
	if _, err := os.Stat("/proc/net/tls_stat"); err == nil {
		t.Error("the module was loaded for a process without capabilities")
	}
	fault(t, kernelFailures, "the module tls is not loaded when a Caddy without CAP_NET_ADMIN starts", "unshare(1), user namespace; the kernel's modprobe would load it",
		"bodies whole, copied, reason `kernel_unsupported`")

	// The first Caddy has CAP_NET_ADMIN.
	before = c.metrics(t)
	wantBody(t, c.get(t, "/f"), http.StatusOK, f.digest)
	c.expect(t, before, sentByKernel(f.size))
	fault(t, kernelFailures, "the module tls is not loaded when a connection is to be moved", "delete_module(2); the kernel's modprobe loads it, Caddy has CAP_NET_ADMIN",
		"module loaded by the kernel, connection offloaded; body whole")
}
