package integration_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A rewritten is a file that is written over again and again, in place. The version is
// in the low bits of each byte. The other bits say where in the file the byte belongs.
type rewritten struct {
	path     string
	places   []byte // the bytes of version 0
	versions atomic.Int64
	mixed    atomic.Int64 // downloads that had parts of several versions
}

const versionBits = 0b111

func newRewritten(path string, size int) *rewritten {
	r := &rewritten{path: path, places: testutil.Body(size, "rewritten")}
	for i := range r.places {
		r.places[i] &^= versionBits
	}
	return r
}

// write writes the next version over the one before, in pieces of all lengths.
func (r *rewritten) write(f *os.File) error {
	version := byte(r.versions.Add(1)) & versionBits
	for at := 0; at < len(r.places); {
		piece := make([]byte, min(1+rand.IntN(100_000), len(r.places)-at))
		for i := range piece {
			piece[i] = r.places[at+i] | version
		}
		n, err := f.WriteAt(piece, int64(at))
		if err != nil {
			return err
		}
		at += n
	}
	return nil
}

// A versionsCheck checks a download.
type versionsCheck struct {
	rest []byte          // places that are still to come
	seen map[byte]uint64 // how many bytes each version has
}

func (c *versionsCheck) Write(p []byte) (int, error) {
	if len(p) > len(c.rest) {
		return 0, fmt.Errorf("%d bytes more than the file has", len(p)-len(c.rest))
	}
	var seen [versionBits + 1]uint64
	for i, b := range p {
		if b&^versionBits != c.rest[i] {
			return 0, fmt.Errorf("%#x, %d bytes before the end, is of no version", b, len(c.rest)-i)
		}
		seen[b&versionBits]++
	}
	for version, n := range seen {
		if n > 0 {
			c.seen[byte(version)] += n
		}
	}
	c.rest = c.rest[len(p):]
	return len(p), nil
}

// download gets the file once.
func (r *rewritten) download(client *http.Client, url string) error {
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	check := &versionsCheck{rest: r.places, seen: map[byte]uint64{}}
	if _, err = io.Copy(check, resp.Body); err == nil && len(check.rest) > 0 {
		err = fmt.Errorf("%d bytes are missing, and it looks whole", len(check.rest))
	}
	if len(check.seen) > 1 {
		r.mixed.Add(1)
	}
	return err
}

// A file that is written over in place, with the same length, while clients get it, comes
// as some mixture of its versions. Each byte is one that was at its place, the length is
// right, and connections live on. The kernel computes a record's tag from what it has
// encrypted, however often the file changes meanwhile.
func TestRewrittenFile(t *testing.T) {
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	c.Start(t, harness.FileSite)
	onExt4(t, c, "mounted")
	for name, path := range map[string]string{"in memory": "/rewritten", "ext4": "/mounted/rewritten"} {
		t.Run(name, func(t *testing.T) {
			testRewrittenFile(t, c, path, time.Duration(harness.ShortOrLong(0, 120))*time.Second)
		})
	}
	results.Fault(t, "Files", "A file is overwritten in place, with the same length, all the time", "during its downloads over HTTP/1.1 and HTTP/2, by several ciphers; minutes in the long form",
		"complete, each byte as it was at some time; connections go on")
}

func testRewrittenFile(t *testing.T, c *harness.Caddy, path string, least time.Duration) {
	r := newRewritten(path, 1<<20+4097)
	f, err := os.Create(c.Root.Path(path))
	testutil.Must(t, err)
	defer f.Close()
	testutil.Must(t, r.write(f))

	before := c.Metrics(t)
	var stop atomic.Bool
	var writing, all sync.WaitGroup
	writing.Go(func() {
		for !stop.Load() {
			if err := r.write(f); err != nil {
				t.Error(err)
				return
			}
		}
	})
	var downloads atomic.Int64
	begun := time.Now()
	clients := rewrittenClients(t, c)
	for _, client := range clients {
		all.Go(func() {
			for n := 0; n < 2 || r.mixed.Load() == 0 || time.Since(begun) < least; n++ {
				if time.Since(begun) > least+2*testutil.Patience {
					t.Error("no download has had parts of several versions: the test shows nothing")
				}
				if err := r.download(client, c.URL(path)); err != nil {
					t.Errorf("%s: %v", harness.ProtocolOf(client), err)
				}
				if downloads.Add(1); t.Failed() {
					return
				}
			}
		})
	}
	all.Wait()
	stop.Store(true)
	writing.Wait()
	n := downloads.Load()
	t.Logf("%d downloads, %d of them mixed, of %d versions", n, r.mixed.Load(), r.versions.Load())
	c.Expect(t, before, harness.SentTimes(int64(len(clients)), n, n*int64(len(r.places))))
}

// rewrittenClients returns clients of either protocol that between them have all ciphers.
func rewrittenClients(t testing.TB, c *harness.Caddy) (clients []*http.Client) {
	t.Helper()
	for _, protocol := range harness.Protocols {
		clients = append(clients, c.ProtocolClient(t, protocol)) // TLS 1.3, AES-128-GCM
		for _, suite := range []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256} {
			config := c.TLSConfig(t, protocol)
			config.MaxVersion, config.CipherSuites = tls.VersionTLS12, []uint16{suite}
			clients = append(clients, c.Client(t, config))
		}
	}
	return clients
}
