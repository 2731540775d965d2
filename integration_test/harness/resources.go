package harness

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A Trace says what a Caddy holds for its connections.
type Trace struct {
	Descriptors, Goroutines int
	Kernel                  int64 // connections that the kernel encrypts
	Gauge                   int64 // the module's count of the same
}

// TraceOf returns what a Caddy holds now.
func TraceOf(t testing.TB, c *Caddy) Trace {
	t.Helper()
	return Trace{Descriptors(t, c), Goroutines(t, c), TLSStat(t, "TlsCurrTxSw"), OffloadedNow(t, c)}
}

// exceeds reports whether now is more than before, allowing for some goroutines.
func (now Trace) exceeds(before Trace, goroutines int) bool {
	return now.Descriptors > before.Descriptors || now.Goroutines > before.Goroutines+goroutines ||
		now.Kernel > before.Kernel || now.Gauge > before.Gauge
}

// WantNothingLeft waits until Caddy holds no more than it did.
func WantNothingLeft(t testing.TB, c *Caddy, before Trace) {
	t.Helper()
	testutil.Eventually(t, "nothing is left of the connections", func() error {
		if now := TraceOf(t, c); now.exceeds(before, 0) {
			return fmt.Errorf("%+v, before %+v", now, before)
		}
		return nil
	})
}

// WantDescriptors waits until Caddy has at most so many descriptors.
func WantDescriptors(t testing.TB, c *Caddy, most int) {
	t.Helper()
	testutil.Eventually(t, "descriptors are closed", func() error {
		if n := Descriptors(t, c); n > most {
			return fmt.Errorf("%d, before %d", n, most)
		}
		return nil
	})
}

// Resources are what connections take from a server, and must give back.
type Resources struct {
	Trace
	Heap int64 // bytes in use after garbage collection
	RSS  int64 // bytes of memory that the process has
}

// ResourcesOf returns what a Caddy has now.
func ResourcesOf(t testing.TB, c *Caddy) Resources {
	t.Helper()
	return Resources{Heap: heap(t, c), RSS: RSS(t, c), Trace: TraceOf(t, c)}
}

// What varies by itself: the admin endpoint's own connections, and memory that Caddy and
// Go have meanwhile allocated for good.
const (
	goroutineNoise = 5
	heapNoise      = 6 << 20
)

// WantReturned waits until the server has no more resources than before.
func WantReturned(t testing.TB, c *Caddy, before Resources) {
	t.Helper()
	var now Resources
	testutil.Eventually(t, "the server has given everything back", func() error {
		now = ResourcesOf(t, c)
		if now.exceeds(before.Trace, goroutineNoise) || now.Heap > before.Heap+heapNoise {
			return fmt.Errorf("%+v, before %+v", now, before)
		}
		return nil
	})
	t.Logf("before: %+v; afterwards: %+v", before, now)
}

// Descriptors returns how many file descriptors Caddy has.
func Descriptors(t testing.TB, c *Caddy) int {
	t.Helper()
	list, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(c.PID()), "fd"))
	testutil.Must(t, err)
	return len(list)
}

// Goroutines returns how many goroutines Caddy has.
func Goroutines(t testing.TB, c *Caddy) (n int) {
	t.Helper()
	text := c.Admin(t, http.MethodGet, "/debug/pprof/goroutine?debug=1", "", "")
	_, err := fmt.Sscanf(string(text), "goroutine profile: total %d", &n)
	testutil.Must(t, err)
	return n
}

// OffloadedNow returns how many connections are offloaded now, as the module counts
// them.
func OffloadedNow(t testing.TB, c *Caddy) int64 {
	t.Helper()
	return int64(c.Metric(t, `caddy_ktls_offloaded_connections\{.*\}`))
}

// RSS returns how many bytes of memory Caddy's process has.
func RSS(t testing.TB, c *Caddy) (bytes int64) {
	t.Helper()
	return status(t, c, "VmRSS") << 10 // the file has KiB
}

// Threads returns how many threads Caddy has.
func Threads(t testing.TB, c *Caddy) int {
	t.Helper()
	return int(status(t, c, "Threads"))
}

// status returns a number from /proc/PID/status.
func status(t testing.TB, c *Caddy, name string) (n int64) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(c.PID()), "status"))
	testutil.Must(t, err)
	_, value, _ := strings.Cut(string(text), "\n"+name+":")
	_, err = fmt.Sscan(value, &n)
	testutil.Must(t, err)
	return n
}

// heap returns how many bytes Caddy has in use after garbage collection.
func heap(t testing.TB, c *Caddy) (n int64) {
	t.Helper()
	var profile []byte
	for range 2 { // the content of a sync.Pool survives one collection
		profile = c.Admin(t, http.MethodGet, "/debug/pprof/heap?gc=1&debug=1", "", "")
	}
	_, value, _ := bytes.Cut(profile, []byte("\n# HeapAlloc = "))
	_, err := fmt.Sscan(string(value), &n)
	testutil.Must(t, err)
	return n
}
