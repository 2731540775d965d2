package integration_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// A trace is what a Caddy holds for its connections.
type trace struct {
	descriptors, goroutines int
	kernel                  int64 // connections that the kernel encrypts
	gauge                   int64 // what the module says of that
}

func (c *caddy) trace(t testing.TB) trace {
	t.Helper()
	return trace{c.descriptors(t), c.goroutines(t), tlsStat(t, "TlsCurrTxSw"), c.offloaded(t)}
}

// exceeds reports whether it is more than before, but for some goroutines.
func (now trace) exceeds(before trace, goroutines int) bool {
	return now.descriptors > before.descriptors || now.goroutines > before.goroutines+goroutines ||
		now.kernel > before.kernel || now.gauge > before.gauge
}

// nothingLeft waits until Caddy holds no more than it did.
func (c *caddy) nothingLeft(t testing.TB, before trace) {
	t.Helper()
	eventually(t, "nothing is left of the connections", func() error {
		if now := c.trace(t); now.exceeds(before, 0) {
			return fmt.Errorf("%+v, before %+v", now, before)
		}
		return nil
	})
}

// Resources are what connections take of a server, and have to give back.
type resources struct {
	trace
	heap int64 // bytes in use after garbage collection
	rss  int64 // bytes of memory that the process has
}

func (c *caddy) resources(t testing.TB) resources {
	t.Helper()
	return resources{heap: c.heap(t), rss: c.rss(t), trace: c.trace(t)}
}

// heap returns how many bytes the process has in use after garbage collection.
func (c *caddy) heap(t testing.TB) (n int64) {
	t.Helper()
	var profile []byte
	for range 2 { // what a sync.Pool has survives one
		profile = c.admin(t, http.MethodGet, "/debug/pprof/heap?gc=1&debug=1", "", "")
	}
	_, value, _ := bytes.Cut(profile, []byte("\n# HeapAlloc = "))
	if _, err := fmt.Sscan(string(value), &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// rss returns how much memory the process has.
func (c *caddy) rss(t testing.TB) (kib int64) {
	t.Helper()
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(c.cmd.Process.Pid), "status"))
	must(t, err)
	_, value, _ := strings.Cut(string(status), "\nVmRSS:")
	if _, err := fmt.Sscan(value, &kib); err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

// offloaded returns how many connections are offloaded now, as the module counts
// them.
func (c *caddy) offloaded(t testing.TB) int64 {
	t.Helper()
	return int64(c.metric(t, `caddy_ktls_offloaded_connections\{.*\}`))
}

// What varies by itself: the admin endpoint's own connections, and what Caddy and
// Go have allocated for good meanwhile.
const (
	goroutineNoise = 5
	heapNoise      = 6 << 20
)

// goroutineKept is how many bytes Go keeps for good of a goroutine that has ended,
// for another one.
const goroutineKept = 512

// wantReturned waits until the server has no more resources than before.
func (c *caddy) wantReturned(t testing.TB, before resources) {
	t.Helper()
	var now resources
	eventually(t, "the server has given everything back", func() error {
		now = c.resources(t)
		if now.exceeds(before.trace, goroutineNoise) || now.heap > before.heap+heapNoise {
			return fmt.Errorf("%+v, before %+v", now, before)
		}
		return nil
	})
	t.Logf("before: %+v; afterwards: %+v", before, now)
}
