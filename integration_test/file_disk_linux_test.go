package integration_test

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A disk that fails in the middle of a file ends the transfer, so that the
// client sees it. Over HTTP/2 too the connection ends, as a frame has begun.
func TestReadError(t *testing.T) {
	harness.OnKernel(t, "7.2")
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	f, other := c.Root.AddFile(t, "below", 1<<20), c.Root.AddFile(t, "other", harness.Large)
	const good = 256 << 10
	harness.MountFUSE(t, c.Root.Path("bad"), &harness.FUSE{Content: f.Content, Read: func(offset int64) unix.Errno {
		if offset >= good {
			return unix.EIO
		}
		return 0
	}})
	c.Start(t, harness.FileSite)
	c.ForEachProtocol(t, func(t *testing.T, client *http.Client) {
		bystander := c.Client(t, nil)
		harness.Warm(t, c, bystander, "/other", other)
		descriptors, before := harness.Descriptors(t, c), c.Metrics(t)
		const times = 3
		for range times {
			resp, err := harness.Try(t, client, http.MethodGet, c.URL("/bad/f"))
			if err == nil {
				t.Errorf("the body ended after %d bytes as if it were complete", resp.Digest.Size)
			}
		}
		harness.WantFile(t, bystander, c.URL("/other"), other)
		client.CloseIdleConnections()
		testutil.Eventually(t, "all responses have failed, and nothing is left", func() error {
			now := c.Metrics(t)
			if n := now["responses_failed"] - before["responses_failed"]; n != times {
				return fmt.Errorf("%d have failed", n)
			}
			if n := now["responses:sendfile"] - before["responses:sendfile"]; n != times+1 {
				return fmt.Errorf("%d responses went out by sendfile", n)
			}
			if n := harness.Descriptors(t, c); n > descriptors {
				return fmt.Errorf("%d descriptors, before %d", n, descriptors)
			}
			return nil
		})
	})
	results.Fault(t, "Files", "A disk that fails", "a FUSE file system answers EIO in the middle of a file",
		"the connection ends, so the transfer fails visibly; other connections go on")
}

// Downloads from a file system that hangs wait; the others do not.
func TestHangingDisk(t *testing.T) {
	harness.OnKernel(t, "7.2")
	harness.RequireKernelTLS(t)
	const hanging = 6 // more than there are processors
	c := harness.NewCaddy(t)
	f, other := c.Root.AddFile(t, "below", 1<<20), c.Root.AddFile(t, "other", 1<<20)
	var arrived atomic.Int64
	release := make(chan struct{})
	answer := sync.OnceFunc(func() { close(release) })
	t.Cleanup(answer)
	harness.MountFUSE(t, c.Root.Path("slow"), &harness.FUSE{Content: f.Content, Read: func(offset int64) unix.Errno {
		if offset >= 512<<10 {
			arrived.Add(1)
			<-release
		}
		return 0
	}})
	c.Start(t, harness.FileSite)
	before := c.Metrics(t)
	var all sync.WaitGroup
	for i := range hanging {
		client := c.Client(t, nil)
		all.Go(func() {
			defer client.CloseIdleConnections()
			resp, err := harness.Try(t, client, http.MethodGet, c.URL("/slow/"+string(rune('a'+i))))
			if err != nil {
				t.Error(err)
				return
			}
			harness.WantBody(t, resp, http.StatusOK, f.Digest)
		})
	}
	testutil.Eventually(t, "all are waiting for the disk", func() error {
		if n := arrived.Load(); n < hanging {
			return fmt.Errorf("%d are", n)
		}
		return nil
	})
	for range 3 {
		c.WantFile(t, "/other", other)
	}
	answer()
	all.Wait()
	c.Expect(t, before, harness.SentTimes(hanging+3, hanging+3, (hanging+3)*f.Size))
	results.Fault(t, "Files", "A disk that hangs", "reads of a FUSE file system wait during several sendfiles",
		"the others' downloads go on; whole when the disk answers")
}
