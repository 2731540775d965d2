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

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// xaccelSite is the example with the test's addresses and files.
func xaccelSite(t testing.TB) string {
	t.Helper()
	return harness.Replaced(t, harness.Source(t, "examples/xaccel.Caddyfile"),
		"example.com", "https://localhost:{$PORT}", "127.0.0.1:9000", "127.0.0.1:{$PORT2}", "/srv/private", "{$ROOT}")
}

// startApplication starts the example's application; it ends with the test.
func startApplication(t testing.TB, c *harness.Caddy) {
	t.Helper()
	harness.RequireProgram(t, "xaccel")
	address := "127.0.0.1:" + c.Getenv("PORT2")
	app := exec.Command("xaccel")
	app.Env = append(os.Environ(), "LISTEN="+address)
	testutil.Must(t, app.Start())
	t.Cleanup(func() { _ = app.Process.Kill(); _ = app.Wait() })
	testutil.Eventually(t, "the application listens", func() error {
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

// Whoever is authorised gets the whole file by sendfile, and nothing of how.
func TestAuthorisedDownload(t *testing.T) {
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	f := c.Root.AddFile(t, "alice/large.bin", harness.Large)
	odd := c.Root.AddFile(t, "alice/50% of a+b {x} #1?.bin", harness.Large)
	startApplication(t, c)
	c.Start(t, xaccelSite(t))
	nothing := harness.DigestOf(nil)
	tests := []struct {
		name, method, path string
		headers            []string
		status             int
		body               harness.Digest
		want               harness.Counts
	}{
		{"whole", "GET", "/alice/large.bin", nil, 200, f.Digest, harness.SentByKernel(f.Size)},
		{"range", "GET", "/alice/large.bin", []string{"Range", "bytes=1000-200999"}, 206, f.Part(1000, 201000), harness.SentByKernel(200000)},
		{"POST", "POST", "/alice/large.bin", nil, 200, f.Digest, harness.SentByKernel(f.Size)},
		{"HEAD", "HEAD", "/alice/large.bin", nil, 200, nothing, harness.Copied()},
		{"odd name", "GET", "/alice/50%25%20of%20a+b%20%7Bx%7D%20%231%3F.bin", nil, 200, odd.Digest, harness.SentByKernel(odd.Size)},
		{"query", "GET", "/alice/large.bin?a=/bob/large.bin", nil, 200, f.Digest, harness.SentByKernel(f.Size)},
		{"missing", "GET", "/alice/missing", nil, 404, nothing, harness.Copied()},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c.ForEachProtocol(t, func(t *testing.T, client *http.Client) {
				before := c.Metrics(t)
				resp := harness.Do(t, client, test.method, c.URL(test.path),
					append(test.headers, "Authorization", basicAuth("alice", "rabbit"))...)
				client.CloseIdleConnections()
				harness.WantBody(t, resp, test.status, test.body)
				c.Expect(t, before, test.want)
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
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	c.Root.AddFile(t, "alice/large.bin", harness.Large)
	c.Root.AddFile(t, "bob/large.bin", harness.Large)
	startApplication(t, c)
	c.Start(t, xaccelSite(t))
	whoAreYou, notYours := harness.DigestOf([]byte("Who are you?\n")), harness.DigestOf([]byte("This is not yours.\n"))
	alice := []string{"Authorization", basicAuth("alice", "rabbit")}
	tests := []struct {
		name, path string
		headers    []string
		status     int
		body       harness.Digest
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
			c.ForEachProtocol(t, func(t *testing.T, client *http.Client) {
				before := c.Metrics(t)
				resp := harness.Get(t, client, c.URL(test.path), test.headers...)
				client.CloseIdleConnections()
				harness.WantBody(t, resp, test.status, test.body)
				c.Expect(t, before, harness.Copied())
			})
		})
	}
}

// An application that names a file wrongly or by mistake gives away nothing that
// is not below the root. Symbolic links in there are followed.
func TestAuthorisedDownloadStaysInside(t *testing.T) {
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	f := c.Root.AddFile(t, "alice/large.bin", harness.Large)
	secret := c.Root.AddFile(t, "../secret", harness.Large)
	testutil.Must(t, os.Symlink(filepath.Join(c.Dir, "secret"), c.Root.Path("link")))
	c.Start(t, xaccelSite(t)+`
http://:{$PORT2} {
	header X-Accel-Redirect {http.request.header.File}
	respond "" {http.request.header.Status}
}
http://:{$PORT3} {
	respond another
}`)
	nothing := harness.DigestOf(nil)
	tests := []struct {
		name, file, status string
		want               int
		body               harness.Digest
		counts             harness.Counts
	}{
		{"inside", "/alice/large.bin", "200", 200, f.Digest, harness.SentByKernel(f.Size)},
		{"inside after all", "/../alice/large.bin", "204", 200, f.Digest, harness.SentByKernel(f.Size)},
		{"two dots", "/../secret", "200", 404, nothing, harness.Copied()},
		{"many dots", "/alice/../../../../../../../../../../../../etc/passwd", "200", 404, nothing, harness.Copied()},
		{"escaped dots", "/%2e%2e/secret", "200", 404, nothing, harness.Copied()},
		{"escaped slash", "/..%2fsecret", "200", 404, nothing, harness.Copied()},
		{"twice escaped", "/%252e%252e/secret", "200", 404, nothing, harness.Copied()},
		{"not absolute", "../secret", "200", 404, nothing, harness.Copied()},
		{"placeholder", "/{env.DIR}/secret", "200", 404, nothing, harness.Copied()},
		{"the name in the file system", c.Dir + "/secret", "200", 404, nothing, harness.Copied()},
		{"another server", "http://localhost:" + c.Getenv("PORT3") + "/", "200", 404, nothing, harness.Copied()},
		{"no success", "/alice/large.bin", "403", 403, nothing, harness.Copied()},
		{"link", "/link", "200", 200, secret.Digest, harness.SentByKernel(secret.Size)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c.ForEachProtocol(t, func(t *testing.T, client *http.Client) {
				before := c.Metrics(t)
				resp := harness.Get(t, client, c.URL("/"), "File", test.file, "Status", test.status)
				client.CloseIdleConnections()
				harness.WantBody(t, resp, test.want, test.body)
				if got := resp.Header.Values("X-Accel-Redirect"); got != nil {
					t.Errorf("the client sees X-Accel-Redirect: %q", got)
				}
				c.Expect(t, before, test.counts)
			})
		})
	}
}

// The page's commands do what it says they do.
func TestAuthorisedDownloadPage(t *testing.T) {
	harness.RequireKernelTLS(t)
	harness.RequireProgram(t, "curl")
	const page = "docs/authorised-downloads.md"
	text := harness.Source(t, page)
	for _, file := range []string{"examples/xaccel.Caddyfile", "examples/xaccel/main.go"} {
		if !strings.Contains(text, "(../"+file+")") {
			t.Errorf("%s does not name %s", page, file)
		}
	}
	c := harness.NewCaddy(t)
	f := c.Root.AddFile(t, "alice/large.bin", harness.Large)
	c.Root.AddFile(t, "bob/large.bin", harness.Large)
	startApplication(t, c)
	c.Start(t, xaccelSite(t))
	want := []struct {
		body harness.Digest
		err  string
	}{
		{f.Digest, ""}, {harness.Digest{}, "403"}, {harness.Digest{}, "401"},
	}
	var commands []string
	for _, block := range harness.Blocks(t, page, "sh") {
		for line := range strings.Lines(block) {
			if strings.HasPrefix(line, "curl ") {
				commands = append(commands, harness.Replaced(t, line, "curl -f", "curl -sSf --noproxy '*' --cacert "+c.RootFile(),
					"https://example.com", c.URL("")))
			}
		}
	}
	if len(commands) != len(want) {
		t.Fatalf("%s has %d commands, want %d", page, len(commands), len(want))
	}
	for i, command := range commands {
		out := filepath.Join(c.Dir, "out")
		_, err := harness.RunProgram(t, "sh", "-c", harness.Replaced(t, command, "-o large.bin", "-o "+out))
		if want[i].err != "" {
			if err == nil || !strings.Contains(err.Error(), want[i].err) {
				t.Errorf("%s: %v, want an error with %s", command, err, want[i].err)
			}
			continue
		}
		testutil.Must(t, err)
		got, err := os.ReadFile(out)
		testutil.Must(t, err)
		if d := harness.DigestOf(got); d != want[i].body {
			t.Errorf("%s: body has %v, want %v", command, d, want[i].body)
		}
	}
}
