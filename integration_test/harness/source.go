package harness

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Source reads a file of the module's source, such as a page of documentation.
func Source(t testing.TB, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", name))
	Must(t, err)
	return string(data)
}

// Blocks returns the fenced blocks of one kind in a page, without their fences.
func Blocks(t testing.TB, page, kind string) []string {
	t.Helper()
	var found []string
	for i, block := range strings.Split(Source(t, page), "```") {
		if k, body, _ := strings.Cut(block, "\n"); i%2 == 1 && k == kind {
			found = append(found, body)
		}
	}
	return found
}

// Replaced is a documented text with what is a test's own. Each old string has to be
// there.
func Replaced(t testing.TB, text string, oldnew ...string) string {
	t.Helper()
	for i := 0; i < len(oldnew); i += 2 {
		if !strings.Contains(text, oldnew[i]) {
			t.Fatalf("no %q in\n%s", oldnew[i], text)
		}
	}
	return strings.NewReplacer(oldnew...).Replace(text)
}
