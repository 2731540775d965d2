//go:build linux

package integration_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

// What happens to a file during its transfer must not make a body of another
// length, or of another file. TestHTTP2ChangedFile and TestHTTP2ShorterFile do
// the same over HTTP/2.
func TestChangedFile(t *testing.T) {
	onKernel(t, "7.2")
	requireKernelTLS(t)
	c := newCaddy(t)
	other, after := c.addFile(t, "other", large), c.addFile(t, "after", large)
	c.start(t, site)
	path := filepath.Join(c.root, "f")
	tests := []struct {
		name   string
		change func() error
		next   *file // what is there afterwards
		fails  bool
	}{
		{"grown", func() error { return os.Truncate(path, 2*huge) }, nil, false},
		{"replaced by renaming", func() error { return os.Rename(filepath.Join(c.root, "after"), path) }, &after, false},
		{"made unreadable and deleted", func() error { return errors.Join(os.Chmod(path, 0), os.Remove(path)) }, nil, false},
		{"emptied", func() error { return os.Truncate(path, 0) }, nil, true},
		{"overwritten with less", func() error { return os.WriteFile(path, other.content, 0o600) }, &other, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_ = os.Remove(path)
			f := c.addFile(t, "f", huge)
			bystander := c.client(t, nil)
			c.warm(t, bystander, "/other", other)
			descriptors, before := c.descriptors(t), c.metrics(t)
			d := c.startDownload(t, "/f")
			if sent := c.metrics(t)["sendfile_bytes"] - before["sendfile_bytes"]; sent >= f.size {
				t.Fatal("the whole file was sent before: the test shows nothing")
			}
			must(t, test.change())
			n, err := io.Copy(d.body, d.resp.Body)
			got := d.body.digest()
			switch {
			case test.fails && err == nil:
				t.Errorf("the body ended after %d more bytes as if it were complete", n)
			case test.fails && got != f.part(0, got.size):
				t.Errorf("%v are not the beginning of the file", got)
			case !test.fails && (err != nil || got != f.digest):
				t.Errorf("body has %v, %v, want %v", got, err, f.digest)
			}
			_ = d.conn.Close()
			wantBody(t, do(t, bystander, http.MethodGet, c.url("/other")), http.StatusOK, other.digest)
			want, result := sentByKernel(f.size+other.size), "whole, as it was opened"
			want["responses:sendfile"]++
			if test.fails {
				want["sendfile_bytes"], want["responses_failed"] = anyNumber, 1
				result = "the connection ends, so the transfer fails visibly; other connections go on"
			}
			c.expect(t, before, want)
			c.closedAgain(t, descriptors)
			if test.next != nil {
				wantBody(t, c.get(t, "/f"), http.StatusOK, test.next.digest)
			}
			fault(t, "Files", "A file is "+test.name, "during its download over HTTP/1.1", result)
		})
	}
}

// sparse is a file of 5 GiB with data at the places where numbers of 32 bits end.
type sparse struct {
	size  int64
	parts map[int64][]byte // by their offset
}

func (c *caddy) addSparse(t testing.TB, name string) sparse {
	t.Helper()
	s := sparse{5<<30 + 321, map[int64][]byte{}}
	data := c.addFile(t, "data", large).content
	for _, offset := range []int64{0, 1<<31 - 100_001, 1<<32 - 100_001, s.size - int64(len(data))} {
		s.parts[offset] = data
	}
	f, err := os.Create(filepath.Join(c.root, name))
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(s.size))
	for offset, data := range s.parts {
		_, err := f.WriteAt(data, offset)
		must(t, err)
	}
	return s
}

// part returns the digest of the bytes from on, to but without to.
func (s sparse) part(from, to int64) digest {
	d, buf := newDigester(), make([]byte, 1<<20)
	for from < to {
		p := buf[:min(to-from, int64(len(buf)))]
		clear(p)
		for offset, data := range s.parts {
			if skip := from - offset; skip >= 0 && skip < int64(len(data)) {
				copy(p, data[skip:])
			} else if skip < 0 && -skip < int64(len(p)) {
				copy(p[-skip:], data)
			}
		}
		_, _ = d.Write(p)
		from += int64(len(p))
	}
	return d.digest()
}

// Offsets and lengths beyond 2^32 are right. The whole file takes long.
func TestSparseFile(t *testing.T) {
	onKernel(t, "6.1")
	requireKernelTLS(t)
	c := newCaddy(t)
	s := c.addSparse(t, "f")
	c.start(t, site)
	ranges := [][2]int64{
		{1<<31 - 70_001, 1<<31 + 70_001},
		{1<<32 - 1, 1<<32 + 199_999},
		{1 << 32, 1<<32 + 199_999},
		{1<<32 - 70_001, 1<<32 + 70_001},
		{1<<32 - 2<<20, 1<<32 + 1},
		{s.size - large - 70_000, s.size},
		{s.size - minSize, s.size},
	}
	c.forEachProtocol(t, func(t *testing.T, client *http.Client) {
		before := c.metrics(t)
		want := counts{"connections:offloaded": 1}
		for _, r := range ranges {
			resp := do(t, client, http.MethodGet, c.url("/f"), "Range", fmt.Sprintf("bytes=%d-%d", r[0], r[1]-1))
			wantBody(t, resp, http.StatusPartialContent, s.part(r[0], r[1]))
			if got, want := resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-%d/%d", r[0], r[1]-1, s.size); got != want {
				t.Errorf("Content-Range %q, want %q", got, want)
			}
			want["responses:sendfile"]++
			want["sendfile_bytes"] += r[1] - r[0]
		}
		c.expect(t, before, want)
		if long {
			wantBody(t, do(t, client, http.MethodGet, c.url("/f")), http.StatusOK, s.part(0, s.size))
			want["responses:sendfile"]++
			want["sendfile_bytes"] += s.size
			c.expect(t, before, want)
		}
	})
	fault(t, "Files", "A sparse file of 5 GiB", "ranges around 2^31, 2^32 and at the end, over HTTP/1.1 and HTTP/2", "whole, by sendfile")
}
