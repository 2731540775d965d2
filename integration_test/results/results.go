// Package results keeps what tests have found. integration_test/documents writes
// documents from it.
package results

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Env is the variable that names the folder. If it is empty, nothing is left.
const Env = "KTLS_RESULTS"

// The names of what is left. Faults and Compatibility are tables.
const (
	Faults        = "faults"
	Compatibility = "compatibility"
	Transcript    = "transcript"
)

// Fault adds a row to docs/testing.md: what the test has produced and how, and the
// result, which it has asserted. kind is the heading of the row's table. The same row
// may be told more than once, but only with the same result. A test that has failed
// adds nothing.
func Fault(t testing.TB, kind, what, how, result string) {
	t.Helper()
	if !t.Failed() {
		t.Logf("fault: %s | %s | %s | %s", kind, what, how, result)
	}
	AddRow(t, Faults, kind, what, how, result)
}

// AddRow adds a row to a table. The last cell is the result, which may differ among
// kernels. A test that has failed adds nothing.
func AddRow(t testing.TB, table string, cells ...string) {
	t.Helper()
	line := strings.Join(cells, "\t")
	if strings.ContainsAny(line, "|\n") || strings.Count(line, "\t") != len(cells)-1 {
		t.Fatalf("no row of a table: %q", cells)
	}
	write(t, table, os.O_APPEND, line+"\n")
}

// Write leaves a text. A test that has failed leaves nothing.
func Write(t testing.TB, name, text string) {
	t.Helper()
	write(t, name, os.O_TRUNC, text)
}

func write(t testing.TB, name string, flag int, text string) {
	t.Helper()
	dir := os.Getenv(Env)
	if dir == "" || t.Failed() {
		return
	}
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|flag, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}
