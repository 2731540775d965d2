package repo_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// What xcaddy does with `--with github.com/caddy-ktls/caddy-ktls=.`, and so the
// builder in xcaddy.Dockerfile: a main module of its own, whose only link to
// this one is a replacement.
func TestXcaddy(t *testing.T) {
	if testing.Short() {
		t.Skip("builds Caddy, and fetches modules that are missing")
	}
	const module = "github.com/caddy-ktls/caddy-ktls"
	const caddyModule = "github.com/caddyserver/caddy/v2"
	tree, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	testutil.WriteFile(t, filepath.Join(dir, "main.go"), []byte(testutil.ReadFile(t, "cmd/caddy/main.go")))
	caddyVersion := strings.TrimSpace(output(t, goCommand(t, ".", "list", "-m", "-f", "{{.Version}}", caddyModule)))

	run := func(args ...string) { output(t, goCommand(t, dir, args...)) }
	run("mod", "init", "caddy")
	run("mod", "edit", "-require", caddyModule+"@"+caddyVersion,
		"-require", module+"@v0.0.0", "-replace", module+"="+tree)
	run("mod", "tidy")
	run("build", "-o", "caddy.exe", ".")

	cmd := goCommand(t, dir)
	cmd.Path, cmd.Args = filepath.Join(dir, "caddy.exe"), []string{"caddy", "list-modules"}
	modules := strings.Split(output(t, cmd), "\n")
	for _, name := range []string{"caddy.listeners.ktls", "http.handlers.ktls", "http.handlers.file_server"} {
		if !slices.Contains(modules, name) {
			t.Errorf("caddy list-modules does not list %s", name)
		}
	}
}
