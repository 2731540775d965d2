package integration_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// source reads a file of the module's source, such as a page of documentation.
func source(t testing.TB, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// blocks returns the fenced blocks of one kind in a page, without their fences.
func blocks(t testing.TB, page, kind string) []string {
	t.Helper()
	var found []string
	for i, block := range strings.Split(source(t, page), "```") {
		if k, body, _ := strings.Cut(block, "\n"); i%2 == 1 && k == kind {
			found = append(found, body)
		}
	}
	return found
}

// replaced is a documented text with what is a test's own. Each old string has to
// be there.
func replaced(t testing.TB, text string, oldnew ...string) string {
	t.Helper()
	for i := 0; i < len(oldnew); i += 2 {
		if !strings.Contains(text, oldnew[i]) {
			t.Fatalf("no %q in\n%s", oldnew[i], text)
		}
	}
	return strings.NewReplacer(oldnew...).Replace(text)
}
