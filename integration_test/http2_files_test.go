//go:build linux

package integration_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// Many large files at once share one connection, come whole, and go out by
// sendfile(2).
func TestHTTP2Bulk(t *testing.T) {
	requireKernelTLS(t)
	const streams, size = 32, 8 << 20
	c := newCaddy(t)
	var files []file
	for i := range streams {
		f := c.addFile(t, fmt.Sprint(i), size)
		files = append(files, file{digest: f.digest}) // so much need not be kept
	}
	c.start(t, h2Site)
	before := c.metrics(t)
	received := filepath.Join(c.dir, "received")
	c.curl(t, "--http2", "--parallel", "--parallel-max", fmt.Sprint(streams),
		"--create-dirs", "--output", received+"/#1", c.url(fmt.Sprintf("/[0-%d]", streams-1)))
	for i, f := range files {
		if got := digestOfFile(t, filepath.Join(received, fmt.Sprint(i))); got != f.digest {
			t.Errorf("file %d has %v, want %v", i, got, f.digest)
		}
	}
	c.expect(t, before, sent(files...))
}

func digestOfFile(t testing.TB, name string) digest {
	t.Helper()
	f, err := os.Open(name)
	must(t, err)
	defer f.Close()
	d := newDigester()
	_, err = io.Copy(d, f)
	must(t, err)
	return d.digest()
}
