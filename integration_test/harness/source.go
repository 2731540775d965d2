package harness

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// Source reads a file of the module's source, such as a page of documentation.
func Source(t testing.TB, name string) string {
	t.Helper()
	return testutil.ReadFile(t, filepath.Join("..", name))
}

// Blocks returns the fenced blocks of one kind in a page, without their fences.
func Blocks(t testing.TB, page, kind string) []string {
	t.Helper()
	var found []string
	for _, b := range testutil.ReadPage(t, filepath.Join("..", page)).Blocks {
		if b.Kind == kind {
			found = append(found, b.Body)
		}
	}
	return found
}

// Replaced returns a documented text with some strings replaced by the test's own. Each
// old string must be there.
func Replaced(t testing.TB, text string, oldnew ...string) string {
	t.Helper()
	for i := 0; i < len(oldnew); i += 2 {
		if !strings.Contains(text, oldnew[i]) {
			t.Fatalf("no %q in\n%s", oldnew[i], text)
		}
	}
	return strings.NewReplacer(oldnew...).Replace(text)
}
