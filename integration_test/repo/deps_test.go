package repo_test

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
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
				if path != module+"/ktls" && path != module+"/internal/filerange" && path != module+"/internal/pagecache" &&
					!strings.HasPrefix(path, "golang.org/x/sys/") && !strings.HasPrefix(path, "golang.org/x/crypto/") {
					t.Errorf("package ktls depends on %s", path)
				}
			}
		})
	}
}

// The fake kernel is in no Caddy but in one with its build tag.
func TestFakeKernelIsForTests(t *testing.T) {
	const fake = "github.com/caddy-ktls/caddy-ktls/internal/fakekernel"
	for _, test := range []struct {
		flags []string
		want  bool
	}{{nil, false}, {[]string{"-tags", "fakekernel"}, true}} {
		cmd := goCommand(t, ".", slices.Concat([]string{"list", "-deps"}, test.flags, []string{"./cmd/caddy"})...)
		cmd.Env = append(cmd.Env, "GOOS=linux", "GOFLAGS=")
		packages := strings.Fields(output(t, cmd))
		if got := slices.Contains(packages, fake); got != test.want || len(packages) < 100 {
			t.Errorf("go list %v has %d packages, the fake kernel among them: %v, want %v", test.flags, len(packages), got, test.want)
		}
	}
}

// An older Go fetches one toolchain for all modules that tests build, and the documents
// name that one.
func TestToolchain(t *testing.T) {
	_, toolchain, ok := strings.Cut(testutil.ReadFile(t, "go.mod"), "\ntoolchain ")
	if toolchain, _, _ = strings.Cut(toolchain, "\n"); !ok {
		t.Fatal("go.mod names no toolchain")
	}
	for name, want := range map[string]string{
		"bench/go.mod":                   "\ntoolchain " + toolchain + "\n",
		"integration_test/h2spec/go.mod": "\ntoolchain " + toolchain + "\n",
		"integration_test/l4/go.mod":     "\ntoolchain " + toolchain + "\n",
		"README.md":                      "`GOTOOLCHAIN=" + toolchain + "`",
		"docs/install.md":                "`GOTOOLCHAIN=" + toolchain + "`",
	} {
		if !strings.Contains(testutil.ReadFile(t, name), want) {
			t.Errorf("%s does not have %q", name, want)
		}
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
