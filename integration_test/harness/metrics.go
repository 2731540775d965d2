package harness

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// NotByKernel is how many bytes of a body that goes out by sendfile(2) may still be
// copied: what net/http sniffs, and a tail that fits into its buffer.
const NotByKernel = 512 + 4096

// Metrics reads the counters of Caddy and of the kernel.
func (c *Caddy) Metrics(t testing.TB) Counts {
	t.Helper()
	m, err := ReadCounters(bytes.NewReader(c.Admin(t, http.MethodGet, "/metrics", "", "")))
	testutil.Must(t, err)
	m[KernelTaken] = TLSStat(t, "TlsTxSw") + TLSStat(t, "TlsTxDevice")
	return m
}

// Expect waits until the counters have changed since before by exactly what is wanted,
// and fails the test if they don't. Counters that are not named must not have changed.
// For sendfile_bytes, give the length of the bodies.
func (c *Caddy) Expect(t testing.TB, before, want Counts) {
	t.Helper()
	testutil.Eventually(t, "the counters show what was done", func() error {
		now := c.Metrics(t)
		var wrong []string
		names := map[string]bool{}
		for _, m := range []Counts{before, now, want} {
			for name := range m {
				names[name] = true
			}
		}
		for name := range names {
			got, least, most := now[name]-before[name], want[name], want[name]
			if want[name] == AnyNumber {
				continue
			}
			switch name {
			case "sendfile_bytes":
				least -= want["responses:sendfile"] * NotByKernel
			case KernelTaken: // others may use kernel TLS too
				least = want["connections:offloaded"]
				most = got
			}
			if got > most {
				t.Errorf("%s has changed by %d, want %d", name, got, want[name]) // waiting would not help
			} else if got < least {
				wrong = append(wrong, fmt.Sprintf("%s: %d, want %d", name, got, want[name]))
			}
		}
		if len(wrong) > 0 && !t.Failed() {
			slices.Sort(wrong)
			return fmt.Errorf("%s", strings.Join(wrong, "; "))
		}
		return nil
	})
}

// Warm gets a file by sendfile(2) over a client's first connection. It waits until the
// file is counted, because the client may have it before that.
func Warm(t testing.TB, c *Caddy, client *http.Client, path string, f File) {
	t.Helper()
	before := c.Metrics(t)
	WantFile(t, client, c.URL(path), f)
	c.Expect(t, before, SentByKernel(f.Size))
}

// WantOffloaded gets a file on a connection of its own. The connection must be offloaded,
// and must be resumed or not, as resumed says.
func WantOffloaded(t testing.TB, c *Caddy, config *tls.Config, path string, f File, resumed bool) {
	t.Helper()
	before, handshakes := c.Metrics(t), c.handshakes(t, resumed)
	client := c.Client(t, config)
	resp := Get(t, client, c.URL(path))
	client.CloseIdleConnections()
	WantBody(t, resp, http.StatusOK, f.Digest)
	if resp.TLS.DidResume != resumed {
		t.Errorf("resumed: %v, want %v", resp.TLS.DidResume, resumed)
	}
	c.Expect(t, before, SentByKernel(f.Size))
	if n := c.handshakes(t, resumed) - handshakes; n != 1 {
		t.Errorf("%v handshakes are counted, resumed: %v", n, resumed)
	}
}

// handshakes returns how many handshakes the metrics count, those that have resumed a
// session or the others.
func (c *Caddy) handshakes(t testing.TB, resumed bool) float64 {
	t.Helper()
	word := "no"
	if resumed {
		word = "yes"
	}
	return c.Metric(t, `caddy_ktls_handshakes_total\{resumed="`+word+`",server="\w+"\}`)
}

// Metric returns the sum of the values of a metric whose labels match.
func (c *Caddy) Metric(t testing.TB, pattern string) (sum float64) {
	t.Helper()
	matcher := regexp.MustCompile(`(?m)^` + pattern + ` (\S+)$`)
	for _, match := range matcher.FindAllStringSubmatch(string(c.Admin(t, http.MethodGet, "/metrics", "", "")), -1) {
		var n float64
		_, err := fmt.Sscan(match[1], &n)
		testutil.Must(t, err)
		sum += n
	}
	return sum
}
