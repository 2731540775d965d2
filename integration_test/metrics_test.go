package integration_test

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/counters"
)

// counts are the module's counters, by the names of counters.Read. tls_tx counts
// the connections that the kernel has taken since it booted.
type counts map[string]int64

const kernelTaken = "tls_tx"

// metrics reads the counters of Caddy and of the kernel.
func (c *caddy) metrics(t testing.TB) counts {
	t.Helper()
	m, err := counters.Read(bytes.NewReader(c.admin(t, http.MethodGet, "/metrics", "", "")))
	must(t, err)
	m[kernelTaken] = tlsStat(t, "TlsTxSw") + tlsStat(t, "TlsTxDevice")
	return m
}

// notByKernel is how much of a body that goes out by sendfile(2) may be copied
// all the same: what net/http sniffs, and a tail that fits its buffer.
const notByKernel = 512 + 4096

// anyNumber stands for a change that a test can't foretell.
const anyNumber = -1

// initialWindow is that of every HTTP/2 connection (RFC 9113, section 6.9.2).
const initialWindow = 65_535

// expect waits until the counters have changed since before by exactly what is
// wanted, and fails if they don't. Counters that are not named must not have
// changed. For sendfile_bytes the length of the bodies is given.
func (c *caddy) expect(t testing.TB, before, want counts) {
	t.Helper()
	eventually(t, "the counters show what was done", func() error {
		now := c.metrics(t)
		var wrong []string
		names := map[string]bool{}
		for _, m := range []counts{before, now, want} {
			for name := range m {
				names[name] = true
			}
		}
		for name := range names {
			got, least, most := now[name]-before[name], want[name], want[name]
			if want[name] == anyNumber {
				continue
			}
			switch name {
			case "sendfile_bytes":
				least -= want["responses:sendfile"] * notByKernel
			case kernelTaken: // others may use kernel TLS too
				least = want["connections:offloaded"]
				most = got
			}
			if got > most {
				t.Errorf("%s has changed by %d, want %d", name, got, want[name]) // and waiting is no use
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

// warm gets a file by sendfile(2) over a client's first connection, and waits until
// that is counted: the client may have it before.
func (c *caddy) warm(t testing.TB, client *http.Client, path string, f file) {
	t.Helper()
	before := c.metrics(t)
	wantBody(t, do(t, client, http.MethodGet, c.url(path)), http.StatusOK, f.digest)
	c.expect(t, before, sentByKernel(f.size))
}

// sentByKernel is what one connection changes that carries one response of a
// file's size by sendfile(2).
func sentByKernel(size int64) counts {
	return counts{"connections:offloaded": 1, "responses:sendfile": 1, "sendfile_bytes": size}
}

// copied is what one connection changes that is not worth offloading.
func copied() counts { return counts{"connections:not_needed": 1} }
