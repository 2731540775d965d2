package integration_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// requireKernelTLS skips the test where the kernel has no TLS, or fails it where
// it has to have it. With a fake kernel it skips what needs a real one.
func requireKernelTLS(t testing.TB) {
	t.Helper()
	requireRealKernel(t)
	if _, err := ktls.Probe(); err != nil {
		missing(t, fmt.Sprintf("needs kernel TLS: %v", err))
	}
}

// requireRealKernel skips a test that the fake kernel can't take.
func requireRealKernel(t testing.TB) {
	t.Helper()
	if why := needKernel[t.Name()]; why != "" {
		t.Skip("needs a kernel that is not fake: ", why)
	}
}

// requireProgram is the same for a client program.
func requireProgram(t testing.TB, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		missing(t, fmt.Sprintf("needs the program %s: %v", name, err))
	}
}

func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv(envRequired) != "" {
		t.Fatalf("%s is set: %s", envRequired, what)
	}
	t.Skip(what)
}

// Sizes of files. Bodies of 128 KiB and more are worth sending by the kernel.
const (
	large = 400<<10 + 321
	huge  = 12 << 20 // more than the buffers between server and client hold
)

// A digest is what a body is compared by.
type digest struct {
	size int64
	sum  [sha256.Size]byte
}

func (d digest) String() string { return fmt.Sprintf("%d bytes, SHA-256 %x", d.size, d.sum) }

func digestOf(b []byte) digest { return digest{int64(len(b)), sha256.Sum256(b)} }

// A digester makes the digest of what is written to it.
type digester struct {
	hash.Hash
	size int64
}

func newDigester() *digester { return &digester{Hash: sha256.New()} }

func (d *digester) Write(p []byte) (int, error) {
	d.size += int64(len(p))
	return d.Hash.Write(p)
}

func (d *digester) digest() digest { return digest{d.size, [sha256.Size]byte(d.Sum(nil))} }

// A file is one of the site's files, with what it holds.
type file struct {
	digest
	content []byte
}

// part returns the digest of the bytes from on, to but without to.
func (f file) part(from, to int64) digest { return digestOf(f.content[from:to]) }

// addFile makes a file of random bytes; they are the same each time.
func (c *caddy) addFile(t testing.TB, name string, size int64) file {
	t.Helper()
	content := make([]byte, size)
	_, _ = rand.NewChaCha8(sha256.Sum256([]byte(name))).Read(content) // never fails
	return c.addContent(t, name, content)
}

// addText makes a file that compresses well, and has no template in it.
func (c *caddy) addText(t testing.TB, name string, size int) file {
	t.Helper()
	var b bytes.Buffer
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, "<p>This is line %d of %s.</p>\n", i, name)
	}
	return c.addContent(t, name, b.Bytes()[:size])
}

func (c *caddy) addContent(t testing.TB, name string, content []byte) file {
	t.Helper()
	path := filepath.Join(c.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return file{digestOf(content), content}
}

// tlsConfig returns a client's configuration for HTTP/1.1.
func (c *caddy) tlsConfig(t testing.TB) *tls.Config {
	t.Helper()
	return &tls.Config{RootCAs: c.roots(t), ServerName: "localhost", NextProtos: []string{"http/1.1"}}
}

// dial opens a TLS connection to the site.
func (c *caddy) dial(t testing.TB, config *tls.Config) *tls.Conn {
	t.Helper()
	conn, err := tls.Dial("tcp", "127.0.0.1:"+c.port, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// client returns an HTTP client for all names that the site may have. Without a
// configuration it speaks HTTP/1.1; NextProtos decides otherwise.
func (c *caddy) client(t testing.TB, config *tls.Config) *http.Client {
	t.Helper()
	if config == nil {
		config = c.tlsConfig(t)
		config.ServerName = ""
	}
	config = config.Clone() // http.Transport changes it
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(len(config.NextProtos) > 0 && config.NextProtos[0] == "h2")
	transport := &http.Transport{
		TLSClientConfig:    config,
		Protocols:          protocols,
		DisableCompression: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			_, port, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			return new(net.Dialer).DialContext(ctx, network, "127.0.0.1:"+port)
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// url returns the address of a path on the site.
func (c *caddy) url(path string) string { return "https://localhost:" + c.port + path }

// A response is a response with the digest of its body.
type response struct {
	*http.Response
	body digest
}

// do sends a request and reads all of the response. Headers come in pairs.
func do(t testing.TB, client *http.Client, method, url string, headers ...string) response {
	t.Helper()
	resp, err := try(t, client, method, url, headers...)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	return resp
}

func try(t testing.TB, client *http.Client, method, url string, headers ...string) (response, error) {
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		return response{}, err
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := client.Do(r)
	if err != nil {
		return response{}, err
	}
	defer resp.Body.Close()
	d := newDigester()
	if _, err := io.Copy(d, resp.Body); err != nil {
		return response{}, fmt.Errorf("reading the body: %w", err)
	}
	return response{resp, d.digest()}, nil
}

// get is do for a whole file on a connection of its own.
func (c *caddy) get(t testing.TB, path string, headers ...string) response {
	t.Helper()
	client := c.client(t, nil)
	defer client.CloseIdleConnections()
	return do(t, client, http.MethodGet, c.url(path), headers...)
}

// wantBody fails the test if a response isn't this one.
func wantBody(t testing.TB, resp response, status int, body digest) {
	t.Helper()
	if resp.StatusCode != status {
		t.Errorf("status %d, want %d", resp.StatusCode, status)
	}
	if resp.body != body {
		t.Errorf("body has %v, want %v", resp.body, body)
	}
}

// curl runs curl with the site's root certificate and returns the digest of what
// it prints.
func (c *caddy) curl(t testing.TB, args ...string) digest {
	t.Helper()
	requireProgram(t, "curl")
	d, err := run(t, "curl", append([]string{
		"--silent", "--show-error", "--fail", "--http1.1", "--noproxy", "*", "--cacert", c.rootFile(),
	}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// run runs a program and returns the digest of what it prints.
func run(t testing.TB, name string, args ...string) (digest, error) {
	d := newDigester()
	var complaint bytes.Buffer
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stdout, cmd.Stderr = d, &complaint
	if err := cmd.Run(); err != nil {
		return digest{}, fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, &complaint)
	}
	return d.digest(), nil
}

// must fails the test if there is an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
