package harness

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A Caddy is a Caddy with this module that runs as a process of its own. It is also its
// first site, see [Site]. Fields must be set before it is started.
type Caddy struct {
	Site            // at {$PORT}
	*Process        // since it was started
	Root     Root   // the site's files
	Log      Log    // the log that the process writes
	Dir      string // everything that Caddy writes, and Root
	Socket   string // of the admin endpoint
	Env      []string
	Program  string     // if not the test binary
	Under    []string   // what Caddy runs under, with its arguments
	Files    []*os.File // files that it inherits, from descriptor 3 on
}

// NewCaddy returns a Caddy that has not been started, so that a test can put files into
// its root. In Caddyfiles {$PORT}, {$PORT2} and {$PORT3} are free ports, {$ROOT} is the
// root, and {$DIR} is a folder of the test.
func NewCaddy(t testing.TB) *Caddy {
	t.Helper()
	// Names of unix sockets must be short, so this is not t.TempDir.
	dir, err := os.MkdirTemp("", "ktls-")
	testutil.Must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ports := testutil.FreePorts(t, 3)
	root := filepath.Join(dir, "root")
	testutil.Must(t, os.Mkdir(root, 0o755))
	c := &Caddy{
		Site: Site{Port: ports[0], dir: dir}, Root: Root(root), Dir: dir,
		Log: Log(filepath.Join(dir, "log")), Socket: filepath.Join(dir, "admin"),
	}
	c.Env = append(Environ(dir), "PORT="+ports[0], "PORT2="+ports[1], "PORT3="+ports[2], "ROOT="+root, "DIR="+dir)
	return c
}

// Environ returns the environment of this process with [CaddyEnviron].
func Environ(dir string) []string { return append(os.Environ(), CaddyEnviron(dir)...) }

// CaddyEnviron returns the variables that make the test binary a Caddy that stores its
// data below dir.
func CaddyEnviron(dir string) []string {
	return []string{envCaddy + "=1", "HOME=" + dir, "XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir}
}

// StartCaddy calls NewCaddy and Start.
func StartCaddy(t testing.TB, caddyfile string) *Caddy {
	t.Helper()
	c := NewCaddy(t)
	c.Start(t, caddyfile)
	return c
}

// StartWithFile is StartCaddy for a site with a file f of random bytes.
func StartWithFile(t testing.TB, size int64, caddyfile string) (*Caddy, File) {
	t.Helper()
	c := NewCaddy(t)
	f := c.Root.AddFile(t, "f", size)
	c.Start(t, caddyfile)
	return c, f
}

// Start starts Caddy. It waits until Caddy serves and has the certificates that it
// manages. The Caddyfile needs no global options. At the end of the test Caddy is killed,
// and its log inspected.
func (c *Caddy) Start(t testing.TB, caddyfile string) {
	t.Helper()
	c.run(t, c.complete(caddyfile), c.Ready)
}

// StartExactly is Start for a Caddyfile that is used unchanged. ready returns an error
// until Caddy serves.
func (c *Caddy) StartExactly(t testing.TB, caddyfile string, ready func() error) {
	t.Helper()
	c.run(t, caddyfile, ready)
}

func (c *Caddy) run(t testing.TB, caddyfile string, ready func() error) {
	t.Helper()
	file := c.File()
	testutil.Must(t, os.WriteFile(file, []byte(caddyfile), 0o600))
	self, err := os.Executable()
	testutil.Must(t, err)
	command := append(slices.Clone(c.Under), cmp.Or(c.Program, self), "run", "--config", file, "--adapter", "caddyfile")
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env, cmd.Dir, cmd.ExtraFiles = c.Env, c.Dir, c.Files
	t.Cleanup(func() { c.Log.Inspect(t) }) // when the process has ended
	c.Process = StartProcess(t, cmd, string(c.Log), nil)
	testutil.Eventually(t, "Caddy serves", func() error {
		select {
		case <-c.Exited:
			t.Fatalf("Caddy has ended:\n%s", c.Log.Tail())
		default:
		}
		return ready()
	})
}

// File returns the name of the Caddyfile.
func (c *Caddy) File() string { return filepath.Join(c.Dir, "Caddyfile") }

// complete adds the global options that every test needs. Caddy cleans its storage when
// it starts. If a folder for a new certificate is still empty, Caddy removes it, and
// tries again only after a minute.
func (c *Caddy) complete(caddyfile string) string {
	global := "admin unix/" + c.Socket + `
	skip_install_trust
	auto_https disable_redirects
	default_bind 127.0.0.1
	storage_clean_interval off
	debug
`
	caddyfile = strings.TrimSpace(caddyfile)
	if rest, ok := strings.CutPrefix(caddyfile, "{\n"); ok {
		return "{\n\t" + global + rest + "\n"
	}
	return "{\n\t" + global + "}\n" + caddyfile + "\n"
}

// Ready returns an error that says what is missing until Caddy serves.
func (c *Caddy) Ready() error {
	served := false
	var wanted, cached []string
	for _, entry := range c.Log.Entries() {
		switch entry.Message() {
		case "serving initial configuration":
			served = true
		case "enabling automatic TLS certificate management":
			wanted = append(wanted, entry.Texts("domains")...)
		case "added certificate to cache":
			cached = append(cached, entry.Texts("subjects")...)
		}
	}
	for _, name := range wanted {
		if !slices.Contains(cached, name) {
			return fmt.Errorf("no certificate for %s", name)
		}
	}
	if !served {
		return fmt.Errorf("configuration is not served")
	}
	return nil
}

// At returns the site at the port in an environment variable, such as PORT2.
func (c *Caddy) At(variable string) Site {
	site := c.Site
	site.Port = c.Getenv(variable)
	return site
}

// Stock returns the site at {$PORT2}. In tests that compare, that is the site without the
// module.
func (c *Caddy) Stock() Site { return c.At("PORT2") }

// Getenv returns a variable of Caddy's environment.
func (c *Caddy) Getenv(name string) string {
	for _, e := range c.Env {
		if value, ok := strings.CutPrefix(e, name+"="); ok {
			return value
		}
	}
	return ""
}

// Storage returns the folder of Caddy's certificates and keys.
func (c *Caddy) Storage() string { return filepath.Join(c.Dir, "caddy") }
