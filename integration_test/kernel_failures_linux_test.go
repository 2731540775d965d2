package integration_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

const (
	kernelFailures = "Kernel failures"
	bySeccomp      = "seccomp has system calls of Caddy fail"
)

// A failing is a Caddy of which system calls fail.
type failing struct {
	*harness.Caddy
	*harness.Injector
}

// System calls fail in Caddy.
func TestKernelFailures(t *testing.T) {
	// The race detector needs cgo.
	harness.RequireRealKernel(t, "openat(2) waits for a goroutine's permission, and C code calls it where none can run")
	harness.OnKernel(t, "6.1")
	harness.RequireKernelTLS(t)
	c := failing{Caddy: harness.NewCaddy(t)}
	c.Injector = harness.NewInjector(t, c.Caddy)
	c.Start(t, harness.FileSite+harness.StockSite)
	t.Run("setsockopt", c.testSetsockoptFails)
	t.Run("sendfile", c.testSendfileFails)
	t.Run("no descriptors", c.testNoDescriptors)
}

// The kernel doesn't take a connection: Caddy encrypts it.
func (c failing) testSetsockoptFails(t *testing.T) {
	f := c.Root.AddFile(t, "f", harness.Large)
	c.WantFile(t, "/f", f)
	before, descriptors, refused := c.Metrics(t), harness.Descriptors(t, c.Caddy), 0
	for i, test := range []struct {
		call  harness.InjectedCall
		errno unix.Errno
	}{
		{harness.CallULP, unix.ENOENT}, {harness.CallULP, unix.ENOPROTOOPT}, {harness.CallTX, unix.ENOENT},
		{harness.CallTX, unix.EBUSY}, {harness.CallTX, unix.ENOMEM}, {harness.CallTX, unix.EINVAL},
	} {
		protocol := harness.Protocols[i%2]
		t.Run(fmt.Sprintf("%d/%s/%s", test.call, unix.ErrnoName(test.errno), protocol), func(t *testing.T) {
			c.Inject(t, harness.Injection{Call: test.call, Errno: int32(test.errno), Times: harness.Often})
			client := c.ProtocolClient(t, protocol)
			for range 2 { // it is not tried twice
				harness.WantFile(t, client, c.URL("/f"), f)
			}
			if n := c.Failed(t); n != 1 {
				t.Errorf("%d calls have failed, want 1", n)
			}
			client.CloseIdleConnections()
			refused++
			told := false
			for _, entry := range c.Log.WithReason("kernel_refused") {
				told = told || strings.Contains(entry.Text("error"), test.errno.Error())
			}
			if !told {
				t.Errorf("the log does not tell of %q", test.errno.Error())
			}
		})
	}
	// Nothing is left of it.
	c.Inject(t, harness.Injection{})
	c.WantFile(t, "/f", f)
	want := harness.SentByKernel(f.Size)
	want["connections:kernel_refused"], want["responses:kernel_refused"] = int64(refused), 2*int64(refused)
	c.Expect(t, before, want)
	harness.WantDescriptors(t, c.Caddy, descriptors)
	results.Fault(t, kernelFailures, "setsockopt of TCP_ULP or TLS_TX fails in Caddy, HTTP/1.1 and HTTP/2", bySeccomp,
		"bodies whole, copied; `kernel_refused` in metrics, the error in the log")
}

// sendfile(2) fails in Caddy: what the file can give otherwise is copied, else the
// client sees that the body is not whole, and other connections go on.
func (c failing) testSendfileFails(t *testing.T) {
	const longer = 1100 << 10 // than a call sends
	f := c.Root.AddFile(t, "f", longer)
	small := c.Root.AddFile(t, "small", 20_000)
	bystander := c.ProtocolClient(t, harness.HTTP1)
	harness.WantFile(t, bystander, c.URL("/f"), f)
	descriptors := harness.Descriptors(t, c.Caddy)
	c.testSendfileCopied(t)
	t.Run("EINVAL, and the file is truncated", c.testSendfileTruncated)
	for i, errno := range []unix.Errno{unix.EPIPE, unix.ECONNRESET, unix.EOVERFLOW, unix.ESPIPE} {
		protocol, skip := harness.Protocols[i%2], int32(i/2%2)
		t.Run(fmt.Sprintf("%s/%s/%d", unix.ErrnoName(errno), protocol, skip), func(t *testing.T) {
			before := c.Metrics(t)
			c.Inject(t, harness.Injection{Call: harness.CallSendfile, Errno: int32(errno), Skip: skip, Times: 1})
			wantCut(t, c.Site, protocol, f)
			if n := c.Failed(t); n != 1 {
				t.Errorf("%d calls have failed, want 1", n)
			}
			testutil.Eventually(t, "the response has failed", func() error {
				now := c.Metrics(t)
				if n := now["responses_failed"] - before["responses_failed"]; n != 1 {
					return fmt.Errorf("%d responses have failed", n)
				}
				return nil
			})
			// The connections before and after are well.
			harness.WantFile(t, bystander, c.URL("/small"), small)
		})
	}
	before := c.Metrics(t)
	harness.WantFile(t, bystander, c.URL("/f"), f)
	c.Expect(t, before, harness.Counts{"responses:sendfile": 1, "sendfile_bytes": f.Size})
	harness.WantDescriptors(t, c.Caddy, descriptors)
	results.Fault(t, kernelFailures, "sendfile fails in Caddy (EPIPE, ECONNRESET, EOVERFLOW, ESPIPE), HTTP/1.1 and HTTP/2", bySeccomp,
		"connection closed, `responses_failed` counted; the client sees it; others unharmed")
}

const sendfileRefused = "responses:sendfile_refused"

// The file can be read all the same. Over HTTP/1.1 a response takes two calls for the short
// records at its beginning, one of a MiB, which is the first part and more, and others.
func (c failing) testSendfileCopied(t *testing.T) {
	long := c.Root.AddFile(t, "long", harness.Huge)
	frames := c.Root.AddFile(t, "frames", harness.Large) // each takes a call
	for i, test := range []struct {
		errno       unix.Errno
		skip, times int32
		outcome     string
		bytes       int64 // by sendfile
	}{
		{unix.EINVAL, 0, harness.Often, sendfileRefused, 0},
		{unix.EINVAL, 1, harness.Often, sendfileRefused, harness.OwnFileFrame},
		{unix.ENOSYS, 3, harness.Often, "responses:sendfile", harness.AnyNumber},
		{unix.EPERM, 0, harness.Often, sendfileRefused, 0},
		{unix.EINTR, 1, 3, "responses:sendfile", harness.Huge},
		{unix.EIO, 0, harness.Often, sendfileRefused, 0},
		{unix.ENOMEM, 3, harness.Often, "responses:sendfile", harness.AnyNumber},
	} {
		protocol := harness.Protocols[i%2]
		t.Run(fmt.Sprintf("%s/%s/%d", unix.ErrnoName(test.errno), protocol, test.skip), func(t *testing.T) {
			before := c.Metrics(t)
			c.Inject(t, harness.Injection{Call: harness.CallSendfile, Errno: int32(test.errno), Skip: test.skip, Times: test.times})
			client := c.ProtocolClient(t, protocol)
			path, f := "/long", long
			if protocol == harness.HTTP2 {
				path, f = "/frames", frames
			}
			harness.WantFile(t, client, c.URL(path), f)
			client.CloseIdleConnections()
			if c.Failed(t) == 0 {
				t.Error("no call has failed")
			}
			c.Expect(t, before, harness.Counts{"connections:offloaded": 1, test.outcome: 1, "sendfile_bytes": test.bytes})
		})
	}
	results.Fault(t, kernelFailures, "sendfile is not possible, forbidden, or fails though the file can be read (EINVAL, ENOSYS, EPERM, EIO, ENOMEM), HTTP/1.1 and HTTP/2", bySeccomp,
		"copied, encrypted by the kernel, `sendfile_refused` in metrics if the first part was; body whole")
}

// The file can't be read any more.
func (c failing) testSendfileTruncated(t *testing.T) {
	shrinking := c.Root.AddFile(t, "shrinking", harness.Huge)
	before := c.Metrics(t)
	c.Inject(t, harness.Injection{Call: harness.CallSendfile, Errno: int32(unix.EINVAL), Times: harness.Often})
	d := harness.StartDownload(t, c.Site, "/shrinking")
	testutil.Must(t, os.Truncate(c.Root.Path("shrinking"), 0))
	if got, err := d.Rest(); err == nil || got != shrinking.Part(0, got.Size) {
		t.Errorf("%v, %v: want a beginning of the file and an error", got, err)
	}
	c.Expect(t, before, harness.Counts{"connections:offloaded": 1, sendfileRefused: 1, "responses_failed": 1})
	results.Fault(t, kernelFailures, "sendfile is not possible (EINVAL), and the file is truncated while it is copied, HTTP/1.1", bySeccomp,
		"cut, and visibly so")
}

// wantCut gets a file of which only a beginning comes, and checks that the client
// knows.
func wantCut(t testing.TB, site harness.Site, protocol string, f harness.File) {
	t.Helper()
	if protocol == harness.HTTP2 {
		h := harness.OpenHTTP2(t, site, harness.WideWindows())
		s := h.Get("/f")
		<-h.Done
		if n := h.WantPrefix(s, f); s.Ended {
			t.Errorf("the stream has ended after %d bytes", n)
		}
		return
	}
	client := site.ProtocolClient(t, protocol)
	defer client.CloseIdleConnections()
	harness.ReadPartial(client, site.URL("/f")).WantBeginning(t, f) // even of the header
}
