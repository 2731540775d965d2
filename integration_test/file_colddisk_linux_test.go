package integration_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A throttle limits what Caddy reads of a file system's device, by a control group.
type throttle struct{ file, device string }

func newThrottle(t testing.TB, c *harness.Caddy, dir string) *throttle {
	t.Helper()
	var status unix.Stat_t
	testutil.Must(t, unix.Stat(dir, &status))
	groups := filepath.Join(c.Dir, "groups")
	mount(t, groups, "-t", "cgroup2", "none")
	group := filepath.Join(groups, "slow")
	testutil.Must(t, os.WriteFile(filepath.Join(groups, "cgroup.subtree_control"), []byte("+io"), 0))
	testutil.Must(t, os.MkdirAll(group, 0o755))
	testutil.Must(t, os.WriteFile(filepath.Join(group, "cgroup.procs"), fmt.Append(nil, c.PID()), 0))
	th := &throttle{filepath.Join(group, "io.max"), fmt.Sprintf("%d:%d", unix.Major(status.Dev), unix.Minor(status.Dev))}
	t.Cleanup(func() { th.set(t, "max") })
	return th
}

// set limits the number of requests in a second.
func (th *throttle) set(t testing.TB, requests string) {
	t.Helper()
	testutil.Must(t, os.WriteFile(th.file, []byte(th.device+" riops="+requests), 0))
}

// Very many downloads wait for a disk. The others go on, those on the same connections
// too, and few threads wait.
func TestColdDisk(t *testing.T) {
	harness.OnKernel(t, "6.12")
	harness.RequireRealKernel(t, "the disk is limited by a control group of the virtual machine")
	harness.RequireKernelTLS(t)
	const cold, connections, size = 150, 3, 256 << 10
	c := harness.NewCaddy(t)
	mountExt4(t, c, "disk", 64<<20)
	hot := c.Root.AddFile(t, "disk/hot.pdf", 1<<20)
	var files []harness.File
	for i := range cold {
		files = append(files, c.Root.AddFile(t, coldName(i), size))
	}
	c.Start(t, harness.FileSite)
	disk := newThrottle(t, c, c.Root.Path("disk"))
	for _, protocol := range harness.Protocols {
		t.Run(protocol, func(t *testing.T) {
			var clients []*http.Client
			for range connections {
				client := c.ProtocolClient(t, protocol)
				harness.Warm(t, c, client, "/disk/hot.pdf", hot)
				clients = append(clients, client)
			}
			before := c.Metrics(t)
			unix.Sync()
			testutil.Must(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0)) // but no names
			_, err := os.ReadFile(c.Root.Path("disk/hot.pdf"))
			testutil.Must(t, err)
			disk.set(t, "2") // fewer are not allowed
			var all sync.WaitGroup
			defer all.Wait()
			defer disk.set(t, "max")
			opened := int64(0)
			for i, f := range files {
				client := clients[i%connections]
				if protocol == harness.HTTP1 {
					client = c.ProtocolClient(t, protocol) // else it might open more than it needs
					opened++
				}
				all.Go(func() {
					resp, err := harness.Try(t, client, http.MethodGet, c.URL("/"+coldName(i)))
					if err != nil {
						t.Error(err)
						return
					}
					harness.WantBody(t, resp, http.StatusOK, f.Digest)
				})
			}
			testutil.Eventually(t, "most are waiting for the disk", func() error {
				if n := atDisk(t, c); n < cold*2/3 {
					return fmt.Errorf("%d are", n)
				}
				return nil
			})
			// 64 places of the disk, and what Go needs.
			if n := harness.Threads(t, c); n > 64+25 {
				t.Errorf("%d threads", n)
			}
			const hots = 3
			for range hots {
				for _, client := range clients {
					harness.WantFile(t, client, c.URL("/disk/hot.pdf"), hot)
				}
			}
			disk.set(t, "max")
			all.Wait()
			c.Expect(t, before, harness.SentTimes(opened, cold+hots*connections, cold*size+hots*connections*hot.Size))
			for _, client := range clients {
				client.CloseIdleConnections()
			}
		})
	}
	results.Fault(t, "Files", "A disk that is slow", "150 downloads wait for a disk that answers two requests in a second",
		"others of the same disk go on, on the same connections too; few threads wait; whole when the disk answers")
}

// atDisk returns how many goroutines of Caddy have a part of a file loaded.
func atDisk(t testing.TB, c *harness.Caddy) (sum int) {
	t.Helper()
	profile := string(c.Admin(t, http.MethodGet, "/debug/pprof/goroutine?debug=1", "", ""))
	_, profile, _ = strings.Cut(profile, "\n") // the total
	for stack := range strings.SplitSeq(profile, "\n\n") {
		if strings.Contains(stack, "pagecache.load+") {
			n := 0
			_, err := fmt.Sscan(stack, &n)
			testutil.Must(t, err)
			sum += n
		}
	}
	return sum
}

func coldName(i int) string { return fmt.Sprintf("disk/cold-%d.pdf", i) }
