package main

import (
	"encoding/binary"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// A site is the folder that the servers serve: a file for each size, named as
// formatSize writes it.
type site struct{ dir string }

// add writes a file of that size, if it isn't there. Its bytes don't compress,
// and no MiB is like another.
func (s site) add(size int64) error {
	name := s.file(size)
	if info, err := os.Stat(name); err == nil && info.Size() == size {
		return nil
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := writeBody(f, size); err != nil {
		return err
	}
	return f.Close()
}

// file is the path of the file of that size.
func (s site) file(size int64) string { return filepath.Join(s.dir, formatSize(size)) }

// writeBody writes a MiB of pseudorandom bytes again and again, each with its
// number in front: that is quick in an emulated machine too.
func writeBody(w io.Writer, size int64) error {
	block := make([]byte, 1<<20)
	random := rand.NewChaCha8([32]byte{})
	_, _ = random.Read(block)
	for i := uint64(0); size > 0; i++ {
		binary.LittleEndian.PutUint64(block, i)
		n := min(size, int64(len(block)))
		if _, err := w.Write(block[:n]); err != nil {
			return err
		}
		size -= n
	}
	return nil
}
