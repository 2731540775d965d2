package repo_test

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

func TestExamples(t *testing.T) {
	files, err := filepath.Glob("examples/*.Caddyfile")
	if err != nil || len(files) == 0 {
		t.Fatal("no examples", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(file, ".Caddyfile")
		t.Run(filepath.Base(name), func(t *testing.T) {
			testAdapt(t, readFile(t, file), readFile(t, name+".json"))
		})
	}
}

// Each Caddyfile in README.md is one that `caddy fmt` leaves as it is and is
// valid. JSON that follows it is what it is adapted to.
func TestReadmeExamples(t *testing.T) {
	caddyfile := ""
	count := 0
	for i, block := range strings.Split(readFile(t, "README.md"), "```") {
		if i%2 == 0 {
			continue // text
		}
		kind, body, _ := strings.Cut(block, "\n")
		switch kind {
		case "caddyfile":
			caddyfile = body
			count++
			if err := caddy.Validate(testConfig(t, caddyfile)); err != nil {
				t.Errorf("%v:\n%s", err, caddyfile)
			}
		case "json":
			got, err := adapt(caddyfile)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(parseJSON(t, got), parseJSON(t, body)) {
				t.Errorf("%s\nis adapted to\n%s", caddyfile, got)
			}
		}
	}
	if count == 0 {
		t.Error("no Caddyfiles")
	}
}
