package repo_test

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil/caddytest"
)

func TestExamples(t *testing.T) {
	files, err := filepath.Glob("examples/*.Caddyfile")
	if err != nil || len(files) == 0 {
		t.Fatal("no examples", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(file, ".Caddyfile")
		t.Run(filepath.Base(name), func(t *testing.T) {
			caddytest.WantAdapted(t, testutil.ReadFile(t, file), testutil.ReadFile(t, name+".json"))
		})
	}
}

// Each Caddyfile in README.md and the reference is one that `caddy fmt` leaves as it is
// and is valid. JSON that follows it is what it is adapted to.
func TestReadmeExamples(t *testing.T) {
	caddyfile := ""
	count := 0
	for _, b := range append(testutil.ReadPage(t, "README.md").Blocks, testutil.ReadPage(t, "docs/reference.md").Blocks...) {
		switch b.Kind {
		case "caddyfile":
			caddyfile = b.Body
			count++
			if err := caddy.Validate(caddytest.Config(t, caddyfile)); err != nil {
				t.Errorf("%v:\n%s", err, caddyfile)
			}
		case "json":
			got, err := caddytest.Adapt(caddyfile)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(testutil.ParseJSON[any](t, got), testutil.ParseJSON[any](t, b.Body)) {
				t.Errorf("%s\nis adapted to\n%s", caddyfile, got)
			}
		}
	}
	if count == 0 {
		t.Error("no Caddyfiles")
	}
}
