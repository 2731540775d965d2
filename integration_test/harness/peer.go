package harness

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A Program is the client of a TLS library. It sends what it reads from standard
// input, and prints what it receives.
type Program struct {
	Name string
	args func(s Site, host string, suite *tls.CipherSuite) []string

	// Commands on standard input: for a KeyUpdate, for a KeyUpdate that asks for one in
	// return, and for connecting again and resuming the session.
	Update, UpdateBoth, Resume string

	updated string // what it says about each KeyUpdate
}

// The programs that tests use.
var (
	OpenSSL = &Program{
		Name: "openssl", args: opensslArgs,
		Update: "k\n", UpdateBoth: "K\n", updated: "KEYUPDATE",
	}
	GnuTLS = &Program{
		Name: "gnutls-cli", args: gnutlsArgs,
		Update: "^rekey1^\n", UpdateBoth: "^rekey^\n", Resume: "^resume^\n", updated: "Rekey was completed",
	}
	Programs = []*Program{OpenSSL, GnuTLS}
)

func opensslArgs(s Site, host string, suite *tls.CipherSuite) []string {
	session := s.SessionFile(host, suite)
	args := []string{
		"s_client", "-brief", "-connect", s.Address(), "-servername", host,
		"-CAfile", s.RootFile(), "-verify_return_error", "-sess_out", session,
	}
	if _, err := os.Stat(session); err == nil {
		args = append(args, "-sess_in", session)
	}
	if IsTLS13(suite) {
		return append(args, "-tls1_3", "-ciphersuites", suite.Name)
	}
	return append(args, "-tls1_2", "-cipher", strings.NewReplacer(
		"TLS_", "", "_WITH", "", "AES_", "AES", "_CBC", "", "POLY1305_SHA256", "POLY1305", "_", "-",
	).Replace(suite.Name))
}

// SessionFile returns the name of the file in which openssl keeps the session to be
// resumed.
func (s Site) SessionFile(host string, suite *tls.CipherSuite) string {
	return filepath.Join(s.dir, host+suite.Name)
}

var aead = regexp.MustCompile("AES_[0-9]+_GCM|CHACHA20_POLY1305")

func gnutlsArgs(s Site, host string, suite *tls.CipherSuite) []string {
	version := "TLS1.2"
	if IsTLS13(suite) {
		version = "TLS1.3"
	}
	cipher := strings.ReplaceAll(aead.FindString(suite.Name), "_", "-")
	return []string{
		"--inline-commands", "--logfile=/dev/stderr", "--x509cafile", s.RootFile(),
		"--sni-hostname", host, "--verify-hostname", host, "--port", s.Port,
		"--priority", "NORMAL:-VERS-ALL:+VERS-" + version + ":-CIPHER-ALL:+" + cipher, "127.0.0.1",
	}
}

// IsTLS13 reports whether a suite belongs to TLS 1.3. Each suite belongs to one version.
func IsTLS13(suite *tls.CipherSuite) bool {
	return slices.Contains(suite.SupportedVersions, tls.VersionTLS13)
}

// SuiteByID returns a cipher suite.
func SuiteByID(id uint16) *tls.CipherSuite {
	suites := tls.CipherSuites()
	return suites[slices.IndexFunc(suites, func(s *tls.CipherSuite) bool { return s.ID == id })]
}

// A Peer is a program that runs, and is connected to the site.
type Peer struct {
	Program *Program
	cmd     *exec.Cmd
	host    string
	stdin   *os.File
	stdout  *bufio.Reader
	stderr  bytes.Buffer
	updates int // KeyUpdates that it was told to send

	writing sync.Mutex // held until what was written to stdin was read
}

// Connect starts a program that connects to a site with one cipher suite.
func Connect(t testing.TB, s Site, program *Program, host string, suite *tls.CipherSuite, args ...string) *Peer {
	t.Helper()
	RequireProgram(t, program.Name)
	stdin, write, err := os.Pipe()
	testutil.Must(t, err)
	defer stdin.Close()
	// gnutls-cli makes a system call for every byte that it prints. On a slow machine
	// that takes long for some files.
	ctx, cancel := context.WithTimeout(context.Background(), 5*testutil.Patience)
	p := &Peer{Program: program, host: host, stdin: write}
	p.cmd = exec.CommandContext(ctx, program.Name, append(program.args(s, host, suite), args...)...)
	p.cmd.Stdin, p.cmd.Stderr = stdin, &p.stderr
	stdout, err := p.cmd.StdoutPipe()
	testutil.Must(t, err)
	p.stdout = bufio.NewReader(stdout)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = p.stdin.Close()
		_ = p.cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", program.Name, &p.stderr)
		}
	})
	return p
}

// Send sends a text as Write does.
func (p *Peer) Send(t testing.TB, text string) {
	t.Helper()
	_, err := io.WriteString(p, text)
	testutil.Must(t, err)
}

// Write writes to the program, and waits until the program has read everything. Both
// programs recognise a command only at the beginning of what they read.
func (p *Peer) Write(b []byte) (int, error) {
	p.writing.Lock()
	defer p.writing.Unlock()
	n, err := p.stdin.Write(b)
	for deadline := time.Now().Add(testutil.Patience); err == nil; time.Sleep(5 * time.Millisecond) {
		var left int
		if left, err = unread(p.stdin); left == 0 {
			break
		}
		if err == nil && time.Now().After(deadline) {
			err = fmt.Errorf("%s does not read its input: %d bytes are left", p.Program.Name, left)
		}
	}
	return n, err
}

// Read reads what has come.
func (p *Peer) Read(b []byte) (int, error) { return p.stdout.Read(b) }

// Close makes the program end the connection.
func (p *Peer) Close() error { return p.stdin.Close() }

// Update sends a KeyUpdate by one of the program's commands.
func (p *Peer) Update(t testing.TB, command string) {
	t.Helper()
	p.Send(t, command)
	p.updates++
}

// UpdateThrice is Update three times.
func (p *Peer) UpdateThrice(t testing.TB, command string) {
	t.Helper()
	for range 3 {
		p.Update(t, command)
	}
}

// Get requests a file and begins to read the response.
func (p *Peer) Get(t testing.TB, path string) *http.Response {
	t.Helper()
	p.Request(t, path)
	return p.Response(t)
}

// Request requests a file.
func (p *Peer) Request(t testing.TB, path string) {
	t.Helper()
	p.Send(t, fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, p.host))
}

// Response begins to read a response.
func (p *Peer) Response(t testing.TB) *http.Response {
	t.Helper()
	resp, err := http.ReadResponse(p.stdout, nil)
	testutil.Must(t, err)
	return resp
}

// WantFile gets a file and fails the test if something else comes.
func (p *Peer) WantFile(t testing.TB, path string, f File) Response {
	t.Helper()
	r := ReadBody(t, p.Get(t, path))
	WantBody(t, r, http.StatusOK, f.Digest)
	return r
}

// End waits until the connection has ended. It returns what came until then, what the
// program has complained of, and the error with which it has ended.
func (p *Peer) End() (rest []byte, complaint string, err error) {
	rest, err = io.ReadAll(p.stdout)
	err = errors.Join(err, p.cmd.Wait()) // then all complaints have come
	return rest, p.stderr.String(), err
}

// WantEnd waits until the connection has ended. Both programs fail unless it ends by
// close_notify.
func (p *Peer) WantEnd(t testing.TB) {
	t.Helper()
	rest, _, err := p.End()
	if err != nil || len(rest) > 0 {
		t.Errorf("at the end of the connection of %s: %q, %v", p.Program.Name, rest, err)
	}
	if n := strings.Count(p.stderr.String(), p.Program.updated); n != p.updates {
		t.Errorf("%s has sent %d KeyUpdates, want %d", p.Program.Name, n, p.updates)
	}
}

// Leave ends the connection.
func (p *Peer) Leave(t testing.TB) {
	t.Helper()
	_ = p.stdin.Close()
	p.WantEnd(t)
}
