package harness

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
)

// A Digest stands for a body in comparisons.
type Digest struct {
	Size int64
	Sum  [sha256.Size]byte
}

func (d Digest) String() string { return fmt.Sprintf("%d bytes, SHA-256 %x", d.Size, d.Sum) }

// DigestOf returns the digest of some bytes.
func DigestOf(b []byte) Digest { return Digest{int64(len(b)), sha256.Sum256(b)} }

// ReadDigest returns the digest of all that is read, and of what was read before an
// error.
func ReadDigest(r io.Reader) (Digest, error) {
	d := NewDigester()
	_, err := io.Copy(d, r)
	return d.Digest(), err
}

// A Digester makes the digest of what is written to it.
type Digester struct {
	sum  hash.Hash
	size int64
}

// NewDigester returns a Digester of nothing yet.
func NewDigester() *Digester { return &Digester{sum: sha256.New()} }

func (d *Digester) Write(p []byte) (int, error) {
	d.size += int64(len(p))
	return d.sum.Write(p)
}

// Digest returns the digest of what was written so far.
func (d *Digester) Digest() Digest { return Digest{d.size, [sha256.Size]byte(d.sum.Sum(nil))} }

// A Comparison compares what is written to it with what should come. It checks more than
// a digest: even an incomplete body must be right.
type Comparison struct {
	Rest []byte // what is still to come
}

// ErrDiffers is the error of a [Comparison] that finds a difference.
var ErrDiffers = errors.New("not what the file has")

func (c *Comparison) Write(p []byte) (int, error) {
	if !bytes.HasPrefix(c.Rest, p) {
		return 0, ErrDiffers
	}
	c.Rest = c.Rest[len(p):]
	return len(p), nil
}
