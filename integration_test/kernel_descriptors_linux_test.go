package integration_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// No descriptors are left, for Caddy or for the whole machine: connections wait,
// files can't be opened, but what is under way goes on, and so does everything
// when there are some again.
func (c failing) testNoDescriptors(t *testing.T) {
	f := c.Root.AddFile(t, "f", harness.Huge)
	small := c.Root.AddFile(t, "small", harness.Large)
	stock := c.Client(t, nil)
	harness.WantFile(t, stock, c.Stock().URL("/small"), small)
	clients := []*http.Client{c.ProtocolClient(t, harness.HTTP1), c.ProtocolClient(t, harness.HTTP2)}
	want := func(status int) {
		t.Helper()
		for _, client := range clients {
			if resp := harness.Get(t, client, c.URL("/small")); resp.StatusCode != status {
				t.Errorf("status %d, want %d", resp.StatusCode, status)
			} else if status == http.StatusOK && resp.Digest != small.Digest {
				t.Errorf("body has %v, want %v", resp.Digest, small.Digest)
			}
		}
	}
	want(http.StatusOK)
	descriptors := harness.Descriptors(t, c.Caddy)
	before := c.Metrics(t)
	d := harness.StartDownload(t, c.Site, "/f")

	limitDescriptors(t, c.PID(), 3)
	status := harness.Get(t, stock, c.Stock().URL("/small")).StatusCode
	if status < 400 {
		t.Errorf("stock Caddy has opened a file: status %d", status)
	}
	want(status)
	waiting := c.askLater(t, small)
	c.Log.Await(t, "that Caddy can't accept", func(e harness.LogEntry) bool {
		return strings.Contains(e.Message(), "too many open files")
	})
	limitDescriptors(t, c.PID(), 4096)
	if err := <-waiting; err != nil {
		t.Errorf("the connection that had to wait: %v", err)
	}
	want(http.StatusOK)

	c.Inject(t, harness.Injection{Call: harness.CallOpen, Errno: int32(unix.ENFILE), Times: harness.Often})
	want(harness.Get(t, stock, c.Stock().URL("/small")).StatusCode)
	c.Inject(t, harness.Injection{Call: harness.CallAccept, Errno: int32(unix.ENFILE), Times: 2})
	c.WantFile(t, "/small", small)
	if n := c.Failed(t); n != 2 {
		t.Errorf("accept has failed %d times, want twice", n)
	}
	want(http.StatusOK)

	d.WantFile(t, f)
	c.Expect(t, before, harness.SentTimes(3, 7, harness.AnyNumber))
	harness.WantDescriptors(t, c.Caddy, descriptors)
	results.Fault(t, kernelFailures, "no descriptor left in the process (EMFILE)", "prlimit of RLIMIT_NOFILE while a download is under way",
		"download whole; files can't be opened, as with stock Caddy; new connections wait, and are served then")
	results.Fault(t, kernelFailures, "no descriptor left in the machine (ENFILE)", "seccomp has openat and accept4 fail while a download is under way",
		"the same")
}

// askLater asks for a file over a connection that has to wait.
func (c failing) askLater(t *testing.T, small harness.File) <-chan error {
	answered := make(chan error, 1)
	go func() {
		client := c.Client(t, nil)
		defer client.CloseIdleConnections()
		resp, err := harness.Try(t, client, http.MethodGet, c.URL("/small"))
		if err == nil && resp.Digest != small.Digest {
			err = fmt.Errorf("body has %v, want %v", resp.Digest, small.Digest)
		}
		answered <- err
	}()
	return answered
}

// limitDescriptors limits how many descriptors a process may have.
func limitDescriptors(t testing.TB, pid int, n uint64) {
	t.Helper()
	var limit unix.Rlimit
	testutil.Must(t, unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &limit))
	limit.Cur = min(n, limit.Max)
	testutil.Must(t, unix.Prlimit(pid, unix.RLIMIT_NOFILE, &limit, nil))
}
