package harness

import (
	"bytes"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// Sizes of files, in bytes. Bodies of MinSize and more are worth sending by the kernel.
const (
	MinSize = 128 << 10 // the default of min_size
	Large   = 400<<10 + 321
	Huge    = 12 << 20 // more than the buffers between server and client hold
)

// A Root is the folder of a site's files. Names in it may lead out of it.
type Root string

// A File is one of the site's files, with its content.
type File struct {
	Digest
	Content []byte
}

// FileOf returns a file with this content.
func FileOf(content []byte) File { return File{DigestOf(content), content} }

// Part returns the digest of the bytes from from up to, but not including, to.
func (f File) Part(from, to int64) Digest { return DigestOf(f.Content[from:to]) }

// Path returns the path of a file.
func (r Root) Path(name string) string { return filepath.Join(string(r), name) }

// AddFile makes a file of bytes that do not compress. They are the same each time.
func (r Root) AddFile(t testing.TB, name string, size int64) File {
	t.Helper()
	return r.AddContent(t, name, testutil.Body(int(size), name))
}

// AddText makes a file that compresses well and has no template in it.
func (r Root) AddText(t testing.TB, name string, size int) File {
	t.Helper()
	var b bytes.Buffer
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, "<p>This is line %d of %s.</p>\n", i, name)
	}
	return r.AddContent(t, name, b.Bytes()[:size])
}

// AddContent makes a file with this content.
func (r Root) AddContent(t testing.TB, name string, content []byte) File {
	t.Helper()
	testutil.WriteFile(t, r.Path(name), content)
	return FileOf(content)
}
