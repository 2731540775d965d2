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

// Resources are what connections take of a server, and have to give back.
type resources struct {
	descriptors, goroutines int
	heap                    int64 // bytes in use after garbage collection
	rss                     int64 // bytes of memory that the process has
	kernel                  int64 // connections that the kernel encrypts
	gauge                   int64 // what the module says of that
}

func (c *caddy) resources(t testing.TB) resources {
	t.Helper()
	return resources{
		heap: c.heap(t), rss: c.rss(t), goroutines: c.goroutines(t), descriptors: c.descriptors(t),
		kernel: tlsStat(t, "TlsCurrTxSw"), gauge: c.offloaded(t),
	}
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
func (c *caddy) offloaded(t testing.TB) (all int64) {
	t.Helper()
	for line := range strings.Lines(string(c.admin(t, http.MethodGet, "/metrics", "", ""))) {
		if strings.HasPrefix(line, "caddy_ktls_offloaded_connections{") {
			value, err := strconv.ParseFloat(strings.Fields(line)[1], 64)
			must(t, err)
			all += int64(value)
		}
	}
	return all
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
		if now.descriptors > before.descriptors || now.goroutines > before.goroutines+goroutineNoise ||
			now.heap > before.heap+heapNoise || now.kernel > before.kernel || now.gauge > before.gauge {
			return fmt.Errorf("%+v, before %+v", now, before)
		}
		return nil
	})
	t.Logf("before: %+v; afterwards: %+v", before, now)
}
