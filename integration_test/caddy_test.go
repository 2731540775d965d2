package integration_test

import (
	"cmp"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// patience bounds every wait for something that happens by itself. Emulated
// machines are slow.
const patience = time.Minute

// A caddy is a Caddy that runs as a process of its own.
type caddy struct {
	dir     string // everything it writes, and ROOT
	root    string // of the site's files
	port    string
	socket  string // of the admin endpoint
	logFile string
	env     []string
	program string     // other than the tests' own
	under   []string   // what Caddy runs under, with its arguments
	files   []*os.File // that it inherits, from descriptor 3 on
	cmd     *exec.Cmd
	exited  chan struct{}

	injections int32 // that were made, see inject
}

// newCaddy returns a Caddy that is yet to be started, so that a test can put
// files into its root. In Caddyfiles {$PORT}, {$PORT2} and {$PORT3} are free
// ports, {$ROOT} is the root, {$DIR} a folder that is the test's.
func newCaddy(t testing.TB) *caddy {
	t.Helper()
	// Names of unix sockets are short: not t.TempDir.
	dir, err := os.MkdirTemp("", "ktls-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ports := freePorts(t, 3)
	c := &caddy{
		dir: dir, root: filepath.Join(dir, "root"), port: ports[0],
		socket: filepath.Join(dir, "admin"), logFile: filepath.Join(dir, "log"),
	}
	if err := os.Mkdir(c.root, 0o755); err != nil {
		t.Fatal(err)
	}
	c.env = append(os.Environ(), envCaddy+"=1", "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir,
		"PORT="+c.port, "PORT2="+ports[1], "PORT3="+ports[2], "ROOT="+c.root, "DIR="+dir)
	return c
}

// startCaddy is newCaddy and start.
func startCaddy(t testing.TB, caddyfile string) *caddy {
	t.Helper()
	c := newCaddy(t)
	c.start(t, caddyfile)
	return c
}

// start starts Caddy and waits until it serves, and has the certificates that
// it manages. It ends with the test.
func (c *caddy) start(t testing.TB, caddyfile string) {
	t.Helper()
	file := filepath.Join(c.dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(c.complete(caddyfile)), 0o600); err != nil {
		t.Fatal(err)
	}
	c.run(t, file, c.isReady)
}

// run is start for a file that is complete, and with another way to know that
// Caddy serves.
func (c *caddy) run(t testing.TB, file string, ready func() error) {
	t.Helper()
	log, err := os.Create(c.logFile)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := append(c.under, cmp.Or(c.program, self), "run", "--config", file, "--adapter", "caddyfile")
	c.cmd = exec.Command(command[0], command[1:]...)
	c.cmd.Env, c.cmd.Dir = c.env, c.dir
	c.cmd.Stdout, c.cmd.Stderr, c.cmd.ExtraFiles = log, log, c.files
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.exited = make(chan struct{})
	go func() { _ = c.cmd.Wait(); close(c.exited) }()
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill()
		<-c.exited
		c.inspectLog(t)
	})
	eventually(t, "Caddy serves", func() error {
		select {
		case <-c.exited:
			t.Fatalf("Caddy has ended:\n%s", c.logTail())
		default:
		}
		return ready()
	})
}

// complete adds the global options that every test needs. Caddy cleans its storage
// when it starts: a folder that a certificate is just to be put into is empty, is
// removed, and the next try comes after a minute.
func (c *caddy) complete(caddyfile string) string {
	global := "admin unix/" + c.socket + `
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

// isReady returns what is missing.
func (c *caddy) isReady() error {
	served := false
	var wanted, cached []string
	for _, entry := range c.log() {
		switch entry.message() {
		case "serving initial configuration":
			served = true
		case "enabling automatic TLS certificate management":
			wanted = append(wanted, entry.strings("domains")...)
		case "added certificate to cache":
			cached = append(cached, entry.strings("subjects")...)
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

// admin asks the admin endpoint.
func (c *caddy) admin(t testing.TB, method, path, contentType, body string) []byte {
	t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", c.socket)
	}}
	defer transport.CloseIdleConnections()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://127.0.0.1"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", contentType)
	resp, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatalf("admin endpoint: %v\n%s", err, c.logTail())
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("admin endpoint: %s %s: %s: %s", method, path, resp.Status, answer)
	}
	return answer
}

// reload replaces the configuration.
func (c *caddy) reload(t testing.TB, caddyfile string) {
	t.Helper()
	c.admin(t, http.MethodPost, "/load", "text/caddyfile", c.complete(caddyfile))
}

// roots returns the root certificate of Caddy's internal authority.
func (c *caddy) roots(t testing.TB) *x509.CertPool {
	t.Helper()
	pem, err := os.ReadFile(c.rootFile())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return pool
}

func (c *caddy) rootFile() string {
	return filepath.Join(c.dir, "caddy/pki/authorities/local/root.crt")
}

func (c *caddy) getenv(name string) string {
	for _, e := range c.env {
		if value, ok := strings.CutPrefix(e, name+"="); ok {
			return value
		}
	}
	return ""
}

// descriptors returns how many file descriptors the process has.
func (c *caddy) descriptors(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(c.cmd.Process.Pid), "fd"))
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// freePorts returns ports of 127.0.0.1 that nobody listens at, each another.
func freePorts(t testing.TB, n int) (ports []string) {
	t.Helper()
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close() // when all of them are known
		_, port, err := net.SplitHostPort(ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, port)
	}
	return ports
}

// eventually asks until there is no error.
func eventually(t testing.TB, what string, ask func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v not yet: %s: %v", patience, what, err)
		}
		time.Sleep(pause)
	}
}
