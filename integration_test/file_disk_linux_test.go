package integration_test

import (
	"fmt"
	"net/http"
	"strings"
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

// Downloads from a file system that hangs wait. The others do not, those on the same
// connection neither.
func TestHangingDisk(t *testing.T) {
	harness.OnKernel(t, "7.2")
	harness.RequireKernelTLS(t)
	const hanging = 24 // more than there are processors
	c := harness.NewCaddy(t)
	f, other := c.Root.AddFile(t, "below", 1<<20), c.Root.AddFile(t, "other", 1<<20)
	c.Start(t, harness.FileSite)
	c.ForEachProtocol(t, func(t *testing.T, client *http.Client) {
		var arrived atomic.Int64
		release := make(chan struct{})
		answer := sync.OnceFunc(func() { close(release) })
		defer answer()
		folder := strings.ReplaceAll(harness.ProtocolOf(client), "/", "")
		harness.MountFUSE(t, c.Root.Path(folder), &harness.FUSE{Content: f.Content, Read: func(offset int64) unix.Errno {
			if offset >= 512<<10 {
				arrived.Add(1)
				<-release
			}
			return 0
		}})
		harness.Warm(t, c, client, "/other", other)
		before := c.Metrics(t)
		var all sync.WaitGroup
		opened := int64(0)
		for i := range hanging {
			own := client
			if harness.ProtocolOf(client) == "HTTP/1.1" {
				own = c.ProtocolClient(t, harness.HTTP1) // else it might open more than it needs
				opened++
			}
			all.Go(func() {
				resp, err := harness.Try(t, own, http.MethodGet, c.URL("/"+folder+"/"+string(rune('a'+i))))
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
		const others = 3
		for range others {
			harness.WantFile(t, client, c.URL("/other"), other)
		}
		answer()
		all.Wait()
		c.Expect(t, before, harness.SentTimes(opened, hanging+others, (hanging+others)*f.Size))
		client.CloseIdleConnections()
	})
	results.Fault(t, "Files", "A disk that hangs", "reads of a FUSE file system wait during 24 downloads",
		"the others' downloads go on, on the same connection too; whole when the disk answers")
}
