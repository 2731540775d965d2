package caddyktls

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Package ktls can be used by any Go server, so it needs no more than the
// standard library, golang.org/x/sys and golang.org/x/crypto, on any system.
func TestDependenciesOfKTLS(t *testing.T) {
	const module = "github.com/caddy-ktls/caddy-ktls"
	for _, goos := range []string{"linux", "darwin", "freebsd", "windows"} {
		t.Run(goos, func(t *testing.T) {
			cmd := goCommand(t, ".", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", "./ktls")
			cmd.Env = append(cmd.Env, "GOOS="+goos, "CGO_ENABLED=0")
			for path := range strings.FieldsSeq(output(t, cmd)) {
				if path != module+"/ktls" &&
					!strings.HasPrefix(path, "golang.org/x/sys/") && !strings.HasPrefix(path, "golang.org/x/crypto/") {
					t.Errorf("package ktls depends on %s", path)
				}
			}
		})
	}
}

// goCommand returns a call of the go command in a folder.
func goCommand(t testing.TB, dir string, args ...string) *exec.Cmd {
	t.Helper()
	path, err := exec.LookPath("go")
	if err != nil {
		t.Skip(err)
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "PWD="+dir)
	return cmd
}

// output runs a command and returns what it prints.
func output(t testing.TB, cmd *exec.Cmd) string {
	t.Helper()
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, stderr.String())
	}
	return stdout.String()
}
