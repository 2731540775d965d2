package repo_test

import (
	"archive/zip"
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

const (
	thisModule    = "github.com/caddy-ktls/caddy-ktls"
	xcaddyVersion = "v0.4.5"
)

// xcaddy, by the commands of README.md and docs/install.md, builds a Caddy that has
// this module: a release of it, or the code of a checkout. A folder stands in for the
// proxy that has the releases: one, or none.
func TestXcaddy(t *testing.T) {
	if testing.Short() {
		t.Skip("builds Caddy twice, and fetches modules that are missing")
	}
	goEnv := func(name string) string { return strings.TrimSpace(output(t, goCommand(t, ".", "env", name))) }
	caddyVersion := output(t, goCommand(t, ".", "list", "-m", "-f", "{{.Version}}", "github.com/caddyserver/caddy/v2"))
	bin, cache, proxies := t.TempDir(), goEnv("GOMODCACHE"), goEnv("GOPROXY")
	t.Setenv("CADDY_VERSION", strings.TrimSpace(caddyVersion))
	t.Setenv("GOBIN", bin)
	t.Setenv("GONOSUMDB", thisModule)
	t.Setenv("GOWORK", "off")
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	output(t, goCommand(t, ".", "install", "github.com/caddyserver/xcaddy/cmd/xcaddy@"+xcaddyVersion))
	forget(t, cache)
	t.Cleanup(func() { forget(t, cache) })

	for _, test := range []struct {
		name, page, command string
		version             string // in the list of Caddy's modules, "" for that of the release
	}{
		{"release", "README.md", "xcaddy build --with " + thisModule, ""},
		// Go's version of a module that a replacement alone provides.
		{"checkout", "docs/install.md", "xcaddy build --with " + thisModule + "=.", "v0.0.0-00010101000000-000000000000"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if !strings.Contains(testutil.ReadFile(t, test.page), test.command) {
				t.Errorf("%s does not have the command %s", test.page, test.command)
			}
			folder, version := publish(t, test.version == "")
			t.Setenv("GOPROXY", "file://"+folder+","+proxies)
			caddy := filepath.Join(t.TempDir(), "caddy.exe")
			args := append(strings.Fields(test.command), "--output", caddy)
			output(t, exec.CommandContext(t.Context(), args[0], args[1:]...))

			modules := strings.Split(output(t, exec.CommandContext(t.Context(), caddy, "list-modules", "--versions")), "\n")
			for _, name := range []string{"caddy.listeners.ktls", "http.handlers.ktls"} {
				if want := name + " " + cmp.Or(test.version, version); !slices.Contains(modules, want) {
					t.Errorf("caddy list-modules --versions does not list %s, but\n%s", want, strings.Join(modules, "\n"))
				}
			}
		})
	}
}

// publish makes a folder that Go takes for a proxy. The proxy knows of one version of this
// module, which is this tree, or of none.
func publish(t testing.TB, released bool) (folder, version string) {
	t.Helper()
	folder = t.TempDir()
	at := filepath.Join(folder, filepath.FromSlash(thisModule), "@v")
	testutil.Must(t, os.MkdirAll(at, 0o755))
	write := func(name, content string) { testutil.WriteFile(t, filepath.Join(at, name), []byte(content)) }
	if !released {
		write("list", "")
		return folder, ""
	}
	files := releasedFiles(t)
	sum := sha256.New()
	for _, name := range files {
		_, _ = io.WriteString(sum, name+testutil.ReadFile(t, name))
	}
	// Go keeps what it knows of a version, also when the module cache has lost it. So each
	// tree has another version, and none is one that will be released.
	version = fmt.Sprintf("v0.1.0-test.x%x", sum.Sum(nil)[:6])
	var archive bytes.Buffer
	w := zip.NewWriter(&archive)
	for _, name := range files {
		file, err := w.Create(thisModule + "@" + version + "/" + filepath.ToSlash(name))
		testutil.Must(t, err)
		_, err = io.WriteString(file, testutil.ReadFile(t, name))
		testutil.Must(t, err)
	}
	testutil.Must(t, w.Close())
	write("list", version)
	write(version+".info", fmt.Sprintf(`{"Version": %q}`, version))
	write(version+".mod", testutil.ReadFile(t, "go.mod"))
	write(version+".zip", archive.String())
	return folder, version
}

// releasedFiles returns the names of the files of which a release of this module consists.
func releasedFiles(t testing.TB) (names []string) {
	t.Helper()
	testutil.Must(t, filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil || name == ".":
			return err
		case entry.IsDir():
			// What is hidden or built is not in a release, and other modules are none of it.
			_, noModule := os.Stat(filepath.Join(name, "go.mod"))
			if noModule == nil || name[0] == '.' || name == "bin" || name == "site" {
				return fs.SkipDir
			}
		case entry.Type().IsRegular() && name[0] != '.':
			names = append(names, name)
		}
		return nil
	}))
	return names
}

// forget removes what the module cache has of this module.
func forget(t testing.TB, cache string) {
	t.Helper()
	module := filepath.FromSlash(thisModule)
	extracted, err := filepath.Glob(filepath.Join(cache, module+"@*"))
	testutil.Must(t, err)
	for _, name := range append(extracted, filepath.Join(cache, "cache", "download", module)) {
		// The folders in it are read-only.
		_ = filepath.WalkDir(name, func(name string, _ fs.DirEntry, err error) error {
			return errors.Join(err, os.Chmod(name, 0o755))
		})
		testutil.Must(t, os.RemoveAll(name))
	}
}
