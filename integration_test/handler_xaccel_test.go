package integration_test

import (
	"encoding/base64"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// xaccelSite is the example with the test's addresses and files.
func xaccelSite(t testing.TB) string {
	t.Helper()
	return replaced(t, source(t, "examples/xaccel.Caddyfile"),
		"example.com", "https://localhost:{$PORT}", "127.0.0.1:9000", "127.0.0.1:{$PORT2}", "/srv/private", "{$ROOT}")
}

// startApplication starts the example's application; it ends with the test.
func (c *caddy) startApplication(t testing.TB) {
	t.Helper()
	requireProgram(t, "xaccel")
	address := "127.0.0.1:" + c.getenv("PORT2")
	app := exec.Command("xaccel")
	app.Env = append(os.Environ(), "LISTEN="+address)
	if err := app.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = app.Process.Kill(); _ = app.Wait() })
	eventually(t, "the application listens", func() error {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_ = conn.Close()
		}
		return err
	})
}

func basicAuth(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// forEachProtocol runs a test with a client of either version of HTTP.
func (c *caddy) forEachProtocol(t *testing.T, test func(t *testing.T, client *http.Client)) {
	t.Helper()
	for _, protocol := range []string{"http/1.1", "h2"} {
		t.Run(protocol, func(t *testing.T) {
			config := c.tlsConfig(t)
			config.NextProtos = []string{protocol}
			test(t, c.client(t, config))
		})
	}
}

// Whoever is authorised gets the whole file by sendfile, and nothing of how.
func TestAuthorisedDownload(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "alice/large.bin", large)
	odd := c.addFile(t, "alice/50% of a+b {x} #1?.bin", large)
	c.startApplication(t)
	c.start(t, xaccelSite(t))
	nothing := digestOf(nil)
	tests := []struct {
		name, method, path string
		headers            []string
		status             int
		body               digest
		want               counts
	}{
		{"whole", "GET", "/alice/large.bin", nil, 200, f.digest, sentByKernel(f.size)},
		{"range", "GET", "/alice/large.bin", []string{"Range", "bytes=1000-200999"}, 206, f.part(1000, 201000), sentByKernel(200000)},
		{"POST", "POST", "/alice/large.bin", nil, 200, f.digest, sentByKernel(f.size)},
		{"HEAD", "HEAD", "/alice/large.bin", nil, 200, nothing, copied()},
		{"odd name", "GET", "/alice/50%25%20of%20a+b%20%7Bx%7D%20%231%3F.bin", nil, 200, odd.digest, sentByKernel(odd.size)},
		{"query", "GET", "/alice/large.bin?a=/bob/large.bin", nil, 200, f.digest, sentByKernel(f.size)},
		{"missing", "GET", "/alice/missing", nil, 404, nothing, copied()},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c.forEachProtocol(t, func(t *testing.T, client *http.Client) {
				before := c.metrics(t)
				resp := do(t, client, test.method, c.url(test.path),
					append(test.headers, "Authorization", basicAuth("alice", "rabbit"))...)
				client.CloseIdleConnections()
				wantBody(t, resp, test.status, test.body)
				c.expect(t, before, test.want)
				for name, want := range map[string]string{
					"Content-Disposition": "attachment", "Cache-Control": "private", "X-Accel-Redirect": "",
				} {
					if got := resp.Header.Get(name); got != want {
						t.Errorf("%s: %q, want %q", name, got, want)
					}
				}
			})
		})
	}
}

// Whoever is not authorised gets the application's answer and none of the file.
func TestRefusedDownload(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	c.addFile(t, "alice/large.bin", large)
	c.addFile(t, "bob/large.bin", large)
	c.startApplication(t)
	c.start(t, xaccelSite(t))
	whoAreYou, notYours := digestOf([]byte("Who are you?\n")), digestOf([]byte("This is not yours.\n"))
	alice := []string{"Authorization", basicAuth("alice", "rabbit")}
	tests := []struct {
		name, path string
		headers    []string
		status     int
		body       digest
	}{
		{"nobody", "/alice/large.bin", nil, 401, whoAreYou},
		{"wrong password", "/alice/large.bin", []string{"Authorization", basicAuth("alice", "builder")}, 401, whoAreYou},
		{"unknown user", "/alice/large.bin", []string{"Authorization", basicAuth("", "")}, 401, whoAreYou},
		{"another's", "/bob/large.bin", alice, 403, notYours},
		{"another's, two dots", "/alice/../bob/large.bin", alice, 403, notYours},
		{"another's, escaped dots", "/alice/%2e%2e/bob/large.bin", alice, 403, notYours},
		{"another's, escaped slash", "/alice/..%2fbob/large.bin", alice, 403, notYours},
		{"another's, two slashes", "//bob/large.bin", alice, 403, notYours},
		{"the client asks by header", "/bob/large.bin", append(alice, "X-Accel-Redirect", "/bob/large.bin"), 403, notYours},
		{"folder", "/alice/", alice, 403, notYours},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c.forEachProtocol(t, func(t *testing.T, client *http.Client) {
				before := c.metrics(t)
				resp := do(t, client, http.MethodGet, c.url(test.path), test.headers...)
				client.CloseIdleConnections()
				wantBody(t, resp, test.status, test.body)
				c.expect(t, before, copied())
			})
		})
	}
}

// An application that names a file wrongly or by mistake gives away nothing that
// is not below the root. Symbolic links in there are followed.
func TestAuthorisedDownloadStaysInside(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "alice/large.bin", large)
	secret := c.addFile(t, "../secret", large)
	if err := os.Symlink(filepath.Join(c.dir, "secret"), filepath.Join(c.root, "link")); err != nil {
		t.Fatal(err)
	}
	c.start(t, xaccelSite(t)+`
http://:{$PORT2} {
	header X-Accel-Redirect {http.request.header.File}
	respond "" {http.request.header.Status}
}
http://:{$PORT3} {
	respond another
}`)
	nothing := digestOf(nil)
	tests := []struct {
		name, file, status string
		want               int
		body               digest
		counts             counts
	}{
		{"inside", "/alice/large.bin", "200", 200, f.digest, sentByKernel(f.size)},
		{"inside after all", "/../alice/large.bin", "204", 200, f.digest, sentByKernel(f.size)},
		{"two dots", "/../secret", "200", 404, nothing, copied()},
		{"many dots", "/alice/../../../../../../../../../../../../etc/passwd", "200", 404, nothing, copied()},
		{"escaped dots", "/%2e%2e/secret", "200", 404, nothing, copied()},
		{"escaped slash", "/..%2fsecret", "200", 404, nothing, copied()},
		{"twice escaped", "/%252e%252e/secret", "200", 404, nothing, copied()},
		{"not absolute", "../secret", "200", 404, nothing, copied()},
		{"placeholder", "/{env.DIR}/secret", "200", 404, nothing, copied()},
		{"the name in the file system", c.dir + "/secret", "200", 404, nothing, copied()},
		{"another server", "http://localhost:" + c.getenv("PORT3") + "/", "200", 404, nothing, copied()},
		{"no success", "/alice/large.bin", "403", 403, nothing, copied()},
		{"link", "/link", "200", 200, secret.digest, sentByKernel(secret.size)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c.forEachProtocol(t, func(t *testing.T, client *http.Client) {
				before := c.metrics(t)
				resp := do(t, client, http.MethodGet, c.url("/"), "File", test.file, "Status", test.status)
				client.CloseIdleConnections()
				wantBody(t, resp, test.want, test.body)
				if got := resp.Header.Values("X-Accel-Redirect"); got != nil {
					t.Errorf("the client sees X-Accel-Redirect: %q", got)
				}
				c.expect(t, before, test.counts)
			})
		})
	}
}

// The page's commands do what it says they do.
func TestAuthorisedDownloadPage(t *testing.T) {
	requireKernelTLS(t)
	requireProgram(t, "curl")
	const page = "docs/authorised-downloads.md"
	text := source(t, page)
	for _, file := range []string{"examples/xaccel.Caddyfile", "examples/xaccel/main.go"} {
		if !strings.Contains(text, "(../"+file+")") {
			t.Errorf("%s does not name %s", page, file)
		}
	}
	c := newCaddy(t)
	f := c.addFile(t, "alice/large.bin", large)
	c.addFile(t, "bob/large.bin", large)
	c.startApplication(t)
	c.start(t, xaccelSite(t))
	want := []struct {
		body digest
		err  string
	}{
		{f.digest, ""}, {digest{}, "403"}, {digest{}, "401"},
	}
	var commands []string
	for _, block := range blocks(t, page, "sh") {
		for line := range strings.Lines(block) {
			if strings.HasPrefix(line, "curl ") {
				commands = append(commands, replaced(t, line, "curl -f", "curl -sSf --noproxy '*' --cacert "+c.rootFile(),
					"https://example.com", c.url("")))
			}
		}
	}
	if len(commands) != len(want) {
		t.Fatalf("%s has %d commands, want %d", page, len(commands), len(want))
	}
	for i, command := range commands {
		out := filepath.Join(c.dir, "out")
		_, err := run(t, "sh", "-c", replaced(t, command, "-o large.bin", "-o "+out))
		if want[i].err != "" {
			if err == nil || !strings.Contains(err.Error(), want[i].err) {
				t.Errorf("%s: %v, want an error with %s", command, err, want[i].err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if d := digestOf(got); d != want[i].body {
			t.Errorf("%s: body has %v, want %v", command, d, want[i].body)
		}
	}
}
