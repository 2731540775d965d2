//go:build linux

package integration_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// reporting is a site that says in each response what the connection is.
const reporting = `
	ktls
	header Connection-Is "{http.request.tls.cipher_suite} {http.request.tls.resumed}"
	root {$ROOT}
	file_server
`

func wantConnection(t testing.TB, r response, suite *tls.CipherSuite, resumed bool) {
	t.Helper()
	if got, want := r.Header.Get("Connection-Is"), fmt.Sprintf("%s %t", suite.Name, resumed); got != want {
		t.Errorf("the connection is %s, want %s", got, want)
	}
}

// A program is the client of a TLS library. It sends what it reads from standard
// input, and prints what it receives.
type program struct {
	name string
	args func(c *caddy, host string, suite *tls.CipherSuite) []string

	// Commands on standard input: KeyUpdate, KeyUpdate that asks for one in
	// return, and to connect again and resume the session.
	update, updateBoth, resume string

	updated string // what it says about each KeyUpdate
}

var (
	openssl = &program{
		name: "openssl", args: opensslArgs,
		update: "k\n", updateBoth: "K\n", updated: "KEYUPDATE",
	}
	gnutls = &program{
		name: "gnutls-cli", args: gnutlsArgs,
		update: "^rekey1^\n", updateBoth: "^rekey^\n", resume: "^resume^\n", updated: "Rekey was completed",
	}
	programs = []*program{openssl, gnutls}
)

func opensslArgs(c *caddy, host string, suite *tls.CipherSuite) []string {
	session := c.sessionFile(host, suite)
	args := []string{
		"s_client", "-brief", "-connect", "127.0.0.1:" + c.port, "-servername", host,
		"-CAfile", c.rootFile(), "-verify_return_error", "-sess_out", session,
	}
	if _, err := os.Stat(session); err == nil {
		args = append(args, "-sess_in", session)
	}
	if isTLS13(suite) {
		return append(args, "-tls1_3", "-ciphersuites", suite.Name)
	}
	return append(args, "-tls1_2", "-cipher", strings.NewReplacer(
		"TLS_", "", "_WITH", "", "AES_", "AES", "_CBC", "", "POLY1305_SHA256", "POLY1305", "_", "-",
	).Replace(suite.Name))
}

// sessionFile is where openssl keeps the session that is to be resumed.
func (c *caddy) sessionFile(host string, suite *tls.CipherSuite) string {
	return filepath.Join(c.dir, host+suite.Name)
}

var aead = regexp.MustCompile("AES_[0-9]+_GCM|CHACHA20_POLY1305")

func gnutlsArgs(c *caddy, host string, suite *tls.CipherSuite) []string {
	version := "TLS1.2"
	if isTLS13(suite) {
		version = "TLS1.3"
	}
	cipher := strings.ReplaceAll(aead.FindString(suite.Name), "_", "-")
	return []string{
		"--inline-commands", "--logfile=/dev/stderr", "--x509cafile", c.rootFile(),
		"--sni-hostname", host, "--verify-hostname", host, "--port", c.port,
		"--priority", "NORMAL:-VERS-ALL:+VERS-" + version + ":-CIPHER-ALL:+" + cipher, "127.0.0.1",
	}
}

// isTLS13 tells the version, as each suite belongs to one.
func isTLS13(suite *tls.CipherSuite) bool {
	return slices.Contains(suite.SupportedVersions, tls.VersionTLS13)
}

func suiteByID(id uint16) *tls.CipherSuite {
	suites := tls.CipherSuites()
	return suites[slices.IndexFunc(suites, func(s *tls.CipherSuite) bool { return s.ID == id })]
}

// A peer is a program that runs, and is connected to the site.
type peer struct {
	program *program
	cmd     *exec.Cmd
	host    string
	stdin   *os.File
	stdout  *bufio.Reader
	stderr  bytes.Buffer
	updates int // KeyUpdates that it was told to send
}

// connect starts a program that connects to the site with one cipher suite.
func (c *caddy) connect(t testing.TB, program *program, host string, suite *tls.CipherSuite, args ...string) *peer {
	t.Helper()
	requireProgram(t, program.name)
	stdin, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	// gnutls-cli prints every byte by a system call of its own, which takes a slow
	// machine long for some files.
	ctx, cancel := context.WithTimeout(context.Background(), 5*patience)
	p := &peer{program: program, host: host, stdin: write}
	p.cmd = exec.CommandContext(ctx, program.name, append(program.args(c, host, suite), args...)...)
	p.cmd.Stdin, p.cmd.Stderr = stdin, &p.stderr
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdout = bufio.NewReader(stdout)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = p.stdin.Close()
		_ = p.cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", program.name, &p.stderr)
		}
	})
	return p
}

// send waits until the program has read the text: both take a command for one
// only at the beginning of what they read.
func (p *peer) send(t testing.TB, text string) {
	t.Helper()
	if _, err := io.WriteString(p.stdin, text); err != nil {
		t.Fatal(err)
	}
	eventually(t, p.program.name+" reads its input", func() error {
		if n := unread(t, p.stdin); n > 0 {
			return fmt.Errorf("%d bytes are left", n)
		}
		return nil
	})
}

// update sends a KeyUpdate.
func (p *peer) update(t testing.TB, command string) {
	t.Helper()
	p.send(t, command)
	p.updates++
}

func (p *peer) updateThrice(t testing.TB, command string) {
	t.Helper()
	for range 3 {
		p.update(t, command)
	}
}

// get requests a file and begins to read the response.
func (p *peer) get(t testing.TB, path string) *http.Response {
	t.Helper()
	p.request(t, path)
	return p.response(t)
}

func (p *peer) request(t testing.TB, path string) {
	t.Helper()
	p.send(t, fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, p.host))
}

func (p *peer) response(t testing.TB) *http.Response {
	t.Helper()
	resp, err := http.ReadResponse(p.stdout, nil)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// wantFile gets a file and fails the test if something else comes.
func (p *peer) wantFile(t testing.TB, path string, f file) response {
	t.Helper()
	resp := p.get(t, path)
	body := newDigester()
	if _, err := io.Copy(body, resp.Body); err != nil {
		t.Fatal(err)
	}
	r := response{resp, body.digest()}
	wantBody(t, r, http.StatusOK, f.digest)
	return r
}

// ended waits until the connection has ended. Both programs fail unless it ends
// by close_notify.
func (p *peer) ended(t testing.TB) {
	t.Helper()
	if rest, err := io.ReadAll(p.stdout); err != nil || len(rest) > 0 {
		t.Errorf("at the end of the connection: %q, %v", rest, err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("%s: %v", p.program.name, err)
	}
	if n := strings.Count(p.stderr.String(), p.program.updated); n != p.updates {
		t.Errorf("%s has sent %d KeyUpdates, want %d", p.program.name, n, p.updates)
	}
}

// leave ends the connection.
func (p *peer) leave(t testing.TB) {
	t.Helper()
	_ = p.stdin.Close()
	p.ended(t)
}

func TestPeers(t *testing.T) {
	onKernel(t, "6.1")
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", 1<<20)
	c.start(t, "https://localhost:{$PORT} {"+reporting+"}")
	for _, program := range programs {
		for _, id := range []uint16{
			tls.TLS_AES_256_GCM_SHA384, tls.TLS_CHACHA20_POLY1305_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
		} {
			suite := suiteByID(id)
			t.Run(program.name+" "+suite.Name, func(t *testing.T) {
				before := c.metrics(t)
				p := c.connect(t, program, "localhost", suite)
				for _, resumed := range []bool{false, true} {
					switch {
					case !resumed:
					case program.resume != "":
						p.send(t, program.resume)
					default:
						p.leave(t)
						p = c.connect(t, program, "localhost", suite)
					}
					wantConnection(t, p.wantFile(t, "/f", f), suite, resumed)
				}
				p.leave(t)
				c.expect(t, before, counts{
					"connections:offloaded": 2, "responses:sendfile": 2, "sendfile_bytes": 2 * f.size,
				})
			})
		}
	}
}
