package testutil

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// WriteFile writes a file, and makes the folders that it lies in.
func WriteFile(t testing.TB, name string, content []byte) {
	t.Helper()
	Must(t, os.MkdirAll(filepath.Dir(name), 0o755))
	Must(t, os.WriteFile(name, content, 0o644))
}

// TempFile makes a file that is removed after the test, and returns its name.
func TempFile(t testing.TB, content []byte) (name string) {
	t.Helper()
	name = filepath.Join(t.TempDir(), "file")
	WriteFile(t, name, content)
	return name
}

// OpenFile makes a file as TempFile does, and opens it for reading until the test ends.
func OpenFile(t testing.TB, content []byte) *os.File {
	t.Helper()
	f, err := os.Open(TempFile(t, content))
	Must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// ReadFile returns the content of a file.
func ReadFile(t testing.TB, name string) string {
	t.Helper()
	content, err := os.ReadFile(name)
	Must(t, err)
	return string(content)
}

// ParseJSON returns what JSON text means. V is any if only the meaning matters.
func ParseJSON[V any](t testing.TB, text string) (v V) {
	t.Helper()
	Must(t, json.Unmarshal([]byte(text), &v))
	return v
}
