package harness

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// Sizes of files. Bodies of MinSize and more are worth sending by the kernel.
const (
	MinSize = 128 << 10 // the default of min_size
	Large   = 400<<10 + 321
	Huge    = 12 << 20 // more than the buffers between server and client hold
)

// A Root is the folder of a site's files. Names in it may lead out of it.
type Root string

// A File is one of the site's files, with what it holds.
type File struct {
	Digest
	Content []byte
}

// FileOf returns a file that holds something.
func FileOf(content []byte) File { return File{DigestOf(content), content} }

// Part returns the digest of the bytes from on, to but without to.
func (f File) Part(from, to int64) Digest { return DigestOf(f.Content[from:to]) }

// Path returns the path of a file.
func (r Root) Path(name string) string { return filepath.Join(string(r), name) }

// AddFile makes a file of random bytes; they are the same each time.
func (r Root) AddFile(t testing.TB, name string, size int64) File {
	t.Helper()
	content := make([]byte, size)
	_, _ = rand.NewChaCha8(sha256.Sum256([]byte(name))).Read(content) // never fails
	return r.AddContent(t, name, content)
}

// AddText makes a file that compresses well, and has no template in it.
func (r Root) AddText(t testing.TB, name string, size int) File {
	t.Helper()
	var b bytes.Buffer
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, "<p>This is line %d of %s.</p>\n", i, name)
	}
	return r.AddContent(t, name, b.Bytes()[:size])
}

// AddContent makes a file that holds something.
func (r Root) AddContent(t testing.TB, name string, content []byte) File {
	t.Helper()
	path := r.Path(name)
	Must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	Must(t, os.WriteFile(path, content, 0o644))
	return FileOf(content)
}
