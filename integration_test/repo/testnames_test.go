package repo_test

import (
	"path/filepath"
	"regexp"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// The tests that docs/testing.md names exist.
func TestTestingNames(t *testing.T) {
	known := map[string]bool{}
	for _, dir := range []string{"ktls", "integration_test"} {
		files, err := filepath.Glob(dir + "/*_test.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			source := testutil.ReadFile(t, file)
			for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllStringSubmatch(source, -1) {
				known[m[1]] = true
			}
		}
	}
	for _, name := range regexp.MustCompile(`\bTest[A-Z]\w+`).FindAllString(testutil.ReadFile(t, "docs/testing.md"), -1) {
		if !known[name] {
			t.Errorf("docs/testing.md names %s, which is no test", name)
		}
	}
}
