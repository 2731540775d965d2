package integration_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// sparse is a large file with data at some places, and zeros between.
type sparse struct {
	size  int64
	parts map[int64][]byte // by their offset
}

// read fills p with what the file has from an offset on.
func (s sparse) read(p []byte, from int64) {
	clear(p)
	for offset, data := range s.parts {
		if skip := from - offset; skip >= 0 && skip < int64(len(data)) {
			copy(p, data[skip:])
		} else if skip < 0 && -skip < int64(len(p)) {
			copy(p[-skip:], data)
		}
	}
}

// A sparseReader compares what is written to it with a sparse file. A digest of so much
// would take too long.
type sparseReader struct {
	sparse
	next   int64
	buffer []byte
}

func (r *sparseReader) Write(p []byte) (int, error) {
	if len(r.buffer) < len(p) {
		r.buffer = make([]byte, len(p))
	}
	want := r.buffer[:len(p)]
	r.read(want, r.next)
	if !bytes.Equal(p, want) {
		return 0, fmt.Errorf("at %d: %w", r.next, harness.ErrDiffers)
	}
	r.next += int64(len(p))
	return len(p), nil
}

// addSparse makes a file of such a size, with data where numbers of 32 bits end, at the
// beginning and at the end.
func addSparse(t testing.TB, c *harness.Caddy, name string, size int64) sparse {
	t.Helper()
	s := sparse{size, map[int64][]byte{}}
	data := testutil.Body(harness.Large, "data")
	for _, offset := range []int64{0, 1<<31 - 100_001, 1<<32 - 100_001, s.size - int64(len(data))} {
		s.parts[offset] = data
	}
	f, err := os.Create(c.Root.Path(name))
	testutil.Must(t, err)
	defer f.Close()
	testutil.Must(t, f.Truncate(s.size))
	for offset, data := range s.parts {
		_, err := f.WriteAt(data, offset)
		testutil.Must(t, err)
	}
	return s
}

// get gets a range of a file, or all of it, and compares every byte. It also compares the
// header, and the size in the access log. It returns the length.
func (s sparse) get(t testing.TB, c *harness.Caddy, client *http.Client, site harness.Site, path, ranges string, from, to int64) int64 {
	t.Helper()
	mark := fmt.Sprintf("%s-%s-%s-%d", site.Port, harness.ProtocolOf(client), ranges, len(c.Log.Accesses()))
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, site.URL(path+"?"+mark), nil)
	testutil.Must(t, err)
	status, contentRange := http.StatusOK, ""
	if ranges != "" {
		r.Header.Set("Range", "bytes="+ranges)
		status, contentRange = http.StatusPartialContent, fmt.Sprintf("bytes %d-%d/%d", from, to-1, s.size)
	}
	resp, err := client.Do(r)
	testutil.Must(t, err)
	defer resp.Body.Close()
	body := sparseReader{sparse: s, next: from}
	_, err = io.CopyBuffer(&body, struct{ io.Reader }{resp.Body}, make([]byte, 1<<18))
	length := strconv.FormatInt(to-from, 10)
	if err != nil || body.next != to || resp.StatusCode != status ||
		resp.Header.Get("Content-Length") != length || resp.Header.Get("Content-Range") != contentRange {
		t.Errorf("%s: %d bytes, %v, status %d, %v", mark, body.next-from, err, resp.StatusCode, resp.Header)
	}
	if a := c.Log.AwaitAccess(t, mark); a.Size != to-from {
		t.Errorf("%s: %d bytes in the access log", mark, a.Size)
	} else if site == c.Site && (a.Sent() > to-from || a.Sent() < to-from-harness.NotByKernel) {
		t.Errorf("%s: %d bytes by sendfile in the access log", mark, a.Sent())
	}
	return to - from
}

// hugeSites are like BothSites, with an access log.
const hugeSites = `
(site) {
	root {$ROOT}
	log
	log_append ktls_bytes {http.ktls.sendfile_bytes}
	file_server
}
https://localhost:{$PORT} {
	ktls
	import site
}
https://localhost:{$PORT2} {
	import site
}`

// Offsets, lengths and counts beyond 2^32 are right. Whole files take long.
func TestSparseFile(t *testing.T) {
	harness.OnKernel(t, "6.1")
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	s := addSparse(t, c, "f", 9<<29+321) // 4.5 GiB
	resumed := addSparse(t, c, "resumed", 1<<32+900_007)
	c.Start(t, hugeSites)
	ranges := [][2]int64{
		{1<<31 - 70_001, 1<<31 + 70_001},
		{1<<32 - 1, 1<<32 + 199_999},
		{1 << 32, 1<<32 + 199_999},
		{1<<32 - 70_001, 1<<32 + 70_001},
		{1<<32 - 2<<20, 1<<32 + 1},
		{s.size - harness.Large - 70_000, s.size},
		{s.size - harness.MinSize, s.size},
	}
	const resume int64 = 1<<32 - 6
	for _, protocol := range harness.Protocols {
		t.Run(protocol, func(t *testing.T) {
			before, want := c.Metrics(t), harness.Counts{"connections:offloaded": 1}
			client, stock := c.ProtocolClient(t, protocol), c.Stock().ProtocolClient(t, protocol)
			for _, r := range ranges {
				text := fmt.Sprintf("%d-%d", r[0], r[1]-1)
				want.AddSent(s.get(t, c, client, c.Site, "/f", text, r[0], r[1]))
				s.get(t, c, stock, c.Stock(), "/f", text, r[0], r[1])
			}
			text := fmt.Sprintf("%d-", resume)
			want.AddSent(resumed.get(t, c, client, c.Site, "/resumed", text, resume, resumed.size))
			resumed.get(t, c, stock, c.Stock(), "/resumed", text, resume, resumed.size)
			c.Expect(t, before, want)
			if harness.Long() {
				// All of it on one connection, whose windows the client watches.
				for range 2 {
					want.AddSent(s.get(t, c, client, c.Site, "/f", "", 0, s.size))
				}
				want.AddSent(s.get(t, c, client, c.Site, "/f", text, resume, s.size))
				s.get(t, c, stock, c.Stock(), "/f", "", 0, s.size)
				c.Expect(t, before, want)
			}
		})
	}
	results.Fault(t, "Files", "A sparse file of 4.5 GiB",
		"ranges around 2^31, 2^32 and at the end, and resumed at 2^32-6; HTTP/1.1 and HTTP/2",
		"whole, by sendfile; sizes in header, access log and metrics as from stock Caddy")
}
