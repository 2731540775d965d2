package repo_test

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
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
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllSubmatch(source, -1) {
				known[string(m[1])] = true
			}
		}
	}
	for _, name := range regexp.MustCompile(`\bTest[A-Z]\w+`).FindAllString(readFile(t, "docs/testing.md"), -1) {
		if !known[name] {
			t.Errorf("docs/testing.md names %s, which is no test", name)
		}
	}
}
