package integration_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// addSameFiles makes what sameRequests asks for, as Caddy's own tests have it.
func addSameFiles(t *testing.T, c *harness.Caddy) {
	t.Helper()
	const small = 20_000 // but worth a sendfile
	c.Root.AddFile(t, "large.bin", harness.Large)
	c.Root.AddText(t, "large.txt", harness.Large)
	c.Root.AddText(t, "error.html", 700)
	for _, name := range []string{
		"foo.txt", "foodir/foo.txt", "foodir/bar.txt", "foodir/secr\\et.txt", "ملف.txt",
		"%D9%85%D9%84%D9%81.txt", "with:in-name.txt", "?.html", "%.html", "%3F.html", "nested/?.html", "nested%2Ffile.html",
		"nested/file.html", "foo.php.php/index.php", "modtime0.txt", "modtime1.txt", "modtime2.txt", "unknown.type",
		".git/config", ".gitignore", "foodir/.git/config", "a.secret", "a.secret2", "secret",
		"with-main/main.html", "with-index/index.html", "../outside",
	} {
		c.Root.AddText(t, name, small)
	}
	for _, suffix := range []string{"", ".gz", ".zst", ".br"} {
		c.Root.AddFile(t, "packed.txt"+suffix, 30_000+int64(len(suffix)))
	}
	for _, name := range []string{"empty", ".env", "list/a.txt", "list/b", "list/c<&>", "list/sub/d"} {
		c.Root.AddText(t, name, 100+len(name))
	}
	c.Root.AddContent(t, "empty", nil)
	c.Root.AddContent(t, "foo.txt.etag", []byte(`"from-a-file"`))
	c.Root.AddContent(t, "packed.txt.gz.etag", []byte(`"packed"`))
	at := func(name string) string { return c.Root.Path(name) }
	for name, target := range map[string]string{
		"inside": "foo.txt", "outside": "../outside", "outside-dir": "../elsewhere", "dangling": "nothing", "loop": "loop",
		"zero": "/dev/zero", "proc": "/proc", "list/link": "../foo.txt", "list/link-out": "../../outside",
	} {
		testutil.Must(t, os.Symlink(target, at(name)))
	}
	testutil.Must(t, os.Mkdir(at("../elsewhere"), 0o755))
	testutil.Must(t, os.Link(at("large.txt"), at("../elsewhere/f")))
	testutil.Must(t, unix.Mkfifo(at("fifo"), 0o644))
	fifo, err := os.OpenFile(at("fifo"), os.O_RDWR, 0) // else opening it waits
	testutil.Must(t, err)
	t.Cleanup(func() { _ = fifo.Close() })
	ln, err := net.Listen("unix", at("socket"))
	testutil.Must(t, err)
	t.Cleanup(func() { _ = ln.Close() })
	testutil.Must(t, filepath.WalkDir(string(c.Root), func(path string, entry os.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			err = os.Chtimes(path, time.Time{}, time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC))
		}
		return err
	}))
	for i := range int64(3) {
		testutil.Must(t, os.Chtimes(at(fmt.Sprintf("modtime%d.txt", i)), time.Time{}, time.Unix(i, 0)))
	}
}

// The cases of Caddy's own tests of its file server, and more, get the same
// status, header and body as from stock Caddy.
func TestConformance(t *testing.T) {
	harness.OnKernel(t, "6.1")
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	addSameFiles(t, c)
	c.Start(t, sameSites())
	first := harness.NewVisit(t, c.Stock(), c.TLSConfig(t)).Ask(http.MethodHead, "/large.bin", "Site", "plain")
	requests := sameRequests(first.Field(t, "Etag"), first.Field(t, "Last-Modified"))
	stock := map[string][]harness.Reply{}
	for _, protocol := range harness.Protocols {
		stock[protocol] = askAll(t, c.Stock(), protocol, requests, nil)
		for i, r := range requests {
			if got := stock[protocol][i].Status; got != r.status {
				t.Errorf("%s: stock Caddy answers with status %d, want %d", r, got, r.status)
			}
		}
	}
	tests := []struct {
		name, protocol string
		site           harness.Site
		long           bool
	}{
		{"HTTP/1.1, on demand", harness.HTTP1, c.Site, false},
		{"HTTP/2, handshake", harness.HTTP2, c.At("PORT3"), false},
		{"HTTP/1.1, handshake", harness.HTTP1, c.At("PORT3"), true},
		{"HTTP/2, on demand", harness.HTTP2, c.Site, true},
	}
	for _, test := range tests {
		if test.long && !harness.Long() {
			continue
		}
		t.Run(test.name, func(t *testing.T) {
			before := c.Metrics(t)
			want := harness.Counts{"sendfile_bytes": harness.AnyNumber, "responses:no_body": 1} // HEAD as GET
			for i, got := range askAll(t, test.site, test.protocol, requests, want) {
				if want := stock[test.protocol][i]; got != want {
					t.Errorf("%s: %v\nstock Caddy: %v", requests[i], got, want)
				}
				if requests[i].sent {
					want["responses:sendfile"]++
				}
			}
			c.Expect(t, before, want)
		})
	}
	results.Fault(t, "Conformance", "Requests of Caddy's own file server tests, and more",
		"names, links, hide, index, precompressed, ranges, conditions, methods, listings, FIFOs, /proc; HTTP/1.1 and HTTP/2",
		"status, header and body as from stock file_server")
}

// askAll makes the requests on one connection, or on a new one where the server
// has closed it; these are counted.
func askAll(t testing.TB, site harness.Site, protocol string, requests []same, count harness.Counts) (replies []harness.Reply) {
	t.Helper()
	v := harness.NewVisit(t, site, site.TLSConfig(t, protocol))
	for _, r := range requests {
		replies = append(replies, v.Ask(r.method, r.path, append([]string{"Site", r.site}, r.headers...)...))
	}
	v.Leave()
	if count != nil {
		count["connections:offloaded"] = int64(v.Dialed)
	}
	return replies
}
