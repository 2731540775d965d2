package integration_test

import (
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"testing"
)

func TestRequests(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", large)
	c.start(t, site)
	etag := c.get(t, "/f").Header.Get("Etag")

	nothing := digestOf(nil)
	part := func(from, to int64) counts { return sentByKernel(to - from) }
	tests := []struct {
		name    string
		method  string
		headers []string
		status  int
		body    digest
		want    counts
	}{
		{"whole", "GET", nil, 200, f.digest, sentByKernel(large)},
		{"range", "GET", []string{"Range", "bytes=1000-200999"}, 206, f.part(1000, 201000), part(1000, 201000)},
		{"range at the start", "GET", []string{"Range", "bytes=0-131071"}, 206, f.part(0, 131072), part(0, 131072)},
		{"range without an end", "GET", []string{"Range", "bytes=4097-"}, 206, f.part(4097, large), part(4097, large)},
		{"range past the end", "GET", []string{"Range", "bytes=5-999999999"}, 206, f.part(5, large), part(5, large)},
		{"suffix range", "GET", []string{"Range", "bytes=-170000"}, 206, f.part(large-170000, large), part(0, 170000)},
		{"small range", "GET", []string{"Range", "bytes=7-1006"}, 206, f.part(7, 1007), copied()},
		{"range of one byte", "GET", []string{"Range", "bytes=-1"}, 206, f.part(large-1, large), copied()},
		{"If-Range fits", "GET", []string{"Range", "bytes=10-190009", "If-Range", etag}, 206, f.part(10, 190010), part(10, 190010)},
		{"If-Range does not fit", "GET", []string{"Range", "bytes=10-190009", "If-Range", `"x"`}, 200, f.digest, sentByKernel(large)},
		{"impossible range", "GET", []string{"Range", "bytes=999999999-"}, 416,
			digestOf([]byte("invalid range: failed to overlap\n")), copied()},
		{"not modified", "GET", []string{"If-None-Match", etag}, 304, nothing, copied()},
		{"modified", "GET", []string{"If-None-Match", `"x"`}, 200, f.digest, sentByKernel(large)},
		{"precondition fails", "GET", []string{"If-Match", `"x"`}, 412, nothing, copied()},
		{"HEAD", "HEAD", nil, 200, nothing, copied()},
		{"HEAD with range", "HEAD", []string{"Range", "bytes=0-99999"}, 206, nothing, copied()},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before := c.metrics(t)
			client := c.client(t, nil)
			resp := do(t, client, test.method, c.url("/f"), test.headers...)
			client.CloseIdleConnections()
			wantBody(t, resp, test.status, test.body)
			c.expect(t, before, test.want)
		})
	}
}

// The parts of several ranges come through a pipe: they are copied.
func TestMultipleRanges(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", large)
	c.start(t, site)
	before := c.metrics(t)
	client := c.client(t, nil)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.url("/f"), nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Range", "bytes=0-99999,110000-189999")
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusPartialContent {
		t.Fatalf("status %s", resp.Status)
	}
	_, parameters, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	parts := multipart.NewReader(resp.Body, parameters["boundary"])
	for i, want := range []digest{f.part(0, 100000), f.part(110000, 190000)} {
		part, err := parts.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		got := newDigester()
		if _, err := io.Copy(got, part); err != nil {
			t.Fatal(err)
		}
		if got.digest() != want {
			t.Errorf("part %d has %v, want %v", i, got.digest(), want)
		}
	}
	if _, err := parts.NextPart(); err != io.EOF {
		t.Errorf("after the last part: %v", err)
	}
	client.CloseIdleConnections()
	c.expect(t, before, copied())
}

// HEAD and conditional requests must not disturb what follows on a connection
// that has been moved.
func TestBodilessAfterMove(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", large)
	c.start(t, site)
	before := c.metrics(t)
	client := c.client(t, nil)
	const rounds = 3
	for i := range rounds {
		resp := do(t, client, http.MethodGet, c.url("/f"))
		wantBody(t, resp, http.StatusOK, f.digest)
		head := do(t, client, http.MethodHead, c.url("/f"))
		wantBody(t, head, http.StatusOK, digestOf(nil))
		if got := head.Header.Get("Content-Length"); got != fmt.Sprint(large) {
			t.Errorf("round %d: HEAD: Content-Length %q, want %d", i, got, large)
		}
		wantBody(t, do(t, client, http.MethodGet, c.url("/f"), "If-None-Match", resp.Header.Get("Etag")),
			http.StatusNotModified, digestOf(nil))
		wantBody(t, do(t, client, http.MethodGet, c.url("/missing")), http.StatusNotFound, digestOf(nil))
	}
	client.CloseIdleConnections()
	c.expect(t, before, counts{
		"connections:offloaded": 1, "responses:sendfile": rounds, "sendfile_bytes": rounds * large,
	})
}
