package integration_test

import (
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

func TestRequests(t *testing.T) {
	harness.RequireKernelTLS(t)
	c, f := harness.StartWithFile(t, harness.Large, harness.FileSite)
	etag := c.Get(t, "/f").Header.Get("Etag")

	nothing := harness.DigestOf(nil)
	part := func(from, to int64) harness.Counts { return harness.SentByKernel(to - from) }
	tests := []struct {
		name    string
		method  string
		headers []string
		status  int
		body    harness.Digest
		want    harness.Counts
	}{
		{"whole", "GET", nil, 200, f.Digest, harness.SentByKernel(harness.Large)},
		{"range", "GET", []string{"Range", "bytes=1000-200999"}, 206, f.Part(1000, 201000), part(1000, 201000)},
		{"range at the start", "GET", []string{"Range", "bytes=0-131071"}, 206, f.Part(0, 131072), part(0, 131072)},
		{"range without an end", "GET", []string{"Range", "bytes=4097-"}, 206, f.Part(4097, harness.Large), part(4097, harness.Large)},
		{"range past the end", "GET", []string{"Range", "bytes=5-999999999"}, 206, f.Part(5, harness.Large), part(5, harness.Large)},
		{"suffix range", "GET", []string{"Range", "bytes=-170000"}, 206, f.Part(harness.Large-170000, harness.Large), part(0, 170000)},
		{"small range", "GET", []string{"Range", "bytes=7-1006"}, 206, f.Part(7, 1007), harness.Copied()},
		{"range of one byte", "GET", []string{"Range", "bytes=-1"}, 206, f.Part(harness.Large-1, harness.Large), harness.Copied()},
		{"If-Range fits", "GET", []string{"Range", "bytes=10-190009", "If-Range", etag}, 206, f.Part(10, 190010), part(10, 190010)},
		{"If-Range does not fit", "GET", []string{"Range", "bytes=10-190009", "If-Range", `"x"`}, 200, f.Digest, harness.SentByKernel(harness.Large)},
		{"impossible range", "GET", []string{"Range", "bytes=999999999-"}, 416,
			harness.DigestOf([]byte("invalid range: failed to overlap\n")), harness.Copied()},
		{"not modified", "GET", []string{"If-None-Match", etag}, 304, nothing, harness.Copied()},
		{"modified", "GET", []string{"If-None-Match", `"x"`}, 200, f.Digest, harness.SentByKernel(harness.Large)},
		{"precondition fails", "GET", []string{"If-Match", `"x"`}, 412, nothing, harness.Copied()},
		{"HEAD", "HEAD", nil, 200, nothing, harness.Copied()},
		{"HEAD with range", "HEAD", []string{"Range", "bytes=0-99999"}, 206, nothing, harness.Copied()},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before := c.Metrics(t)
			client := c.Client(t, nil)
			resp := harness.Do(t, client, test.method, c.URL("/f"), test.headers...)
			client.CloseIdleConnections()
			harness.WantBody(t, resp, test.status, test.body)
			c.Expect(t, before, test.want)
		})
	}
}

// The parts of several ranges come through a pipe: they are copied.
func TestMultipleRanges(t *testing.T) {
	harness.RequireKernelTLS(t)
	c, f := harness.StartWithFile(t, harness.Large, harness.FileSite)
	before := c.Metrics(t)
	client := c.Client(t, nil)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.URL("/f"), nil)
	testutil.Must(t, err)
	r.Header.Set("Range", "bytes=0-99999,110000-189999")
	resp, err := client.Do(r)
	testutil.Must(t, err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusPartialContent {
		t.Fatalf("status %s", resp.Status)
	}
	_, parameters, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	testutil.Must(t, err)
	parts := multipart.NewReader(resp.Body, parameters["boundary"])
	for i, want := range []harness.Digest{f.Part(0, 100000), f.Part(110000, 190000)} {
		part, err := parts.NextPart()
		testutil.Must(t, err)
		got := harness.NewDigester()
		_, err = io.Copy(got, part)
		testutil.Must(t, err)
		if got.Digest() != want {
			t.Errorf("part %d has %v, want %v", i, got.Digest(), want)
		}
	}
	if _, err := parts.NextPart(); err != io.EOF {
		t.Errorf("after the last part: %v", err)
	}
	client.CloseIdleConnections()
	c.Expect(t, before, harness.Copied())
}

// HEAD and conditional requests must not disturb what follows on a connection
// that has been moved.
func TestBodilessAfterMove(t *testing.T) {
	harness.RequireKernelTLS(t)
	c, f := harness.StartWithFile(t, harness.Large, harness.FileSite)
	before := c.Metrics(t)
	client := c.Client(t, nil)
	const rounds = 3
	for i := range rounds {
		resp := harness.Get(t, client, c.URL("/f"))
		harness.WantBody(t, resp, http.StatusOK, f.Digest)
		head := harness.Do(t, client, http.MethodHead, c.URL("/f"))
		harness.WantBody(t, head, http.StatusOK, harness.DigestOf(nil))
		if got := head.Header.Get("Content-Length"); got != fmt.Sprint(harness.Large) {
			t.Errorf("round %d: HEAD: Content-Length %q, want %d", i, got, harness.Large)
		}
		harness.WantBody(t, harness.Get(t, client, c.URL("/f"), "If-None-Match", resp.Header.Get("Etag")),
			http.StatusNotModified, harness.DigestOf(nil))
		harness.WantBody(t, harness.Get(t, client, c.URL("/missing")), http.StatusNotFound, harness.DigestOf(nil))
	}
	client.CloseIdleConnections()
	c.Expect(t, before, harness.SentTimes(1, rounds, rounds*harness.Large))
}
