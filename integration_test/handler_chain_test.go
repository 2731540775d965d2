package integration_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A row is a site, a request to it, and who sends the body. The documentation
// has the same table.
type row struct {
	name    string
	ktls    string // the directive's matcher, if any
	site    string // the directives below ktls and root
	path    string
	headers []string
	status  int    // default: 200
	want    string // sendfile, copied, or framed
	body    string // name of the file that comes, or empty
	decode  bool   // the body comes compressed by gzip
}

const (
	isSent   = "sendfile"
	isCopied = "copied"
	// isFramed: copied, but over HTTP/2 in frames of the module's own, which takes a
	// connection that is offloaded.
	isFramed = "framed"
)

// rows have the files large.bin, large.txt, page.html (both compress well),
// large.txt.gz, large.txt.zst, dir/index.html, list/a and error.html.
var rows = []row{
	{name: "file_server", site: "file_server", path: "/large.bin", want: isSent, body: "large.bin"},
	{name: "range", site: "file_server", path: "/large.bin", headers: []string{"Range", "bytes=0-"},
		status: 206, want: isSent, body: "large.bin"},
	{name: "index file", site: "file_server", path: "/dir/", want: isSent, body: "dir/index.html"},
	{name: "precompressed gzip", site: "file_server {\n precompressed gzip zstd\n}", path: "/large.txt",
		headers: []string{"Accept-Encoding", "gzip"}, want: isSent, body: "large.txt.gz"},
	{name: "precompressed zstd", site: "file_server {\n precompressed gzip zstd\n}", path: "/large.txt",
		headers: []string{"Accept-Encoding", "zstd"}, want: isSent, body: "large.txt.zst"},
	{name: "precompressed not accepted", site: "file_server {\n precompressed gzip\n}", path: "/large.txt",
		want: isSent, body: "large.txt"},
	{name: "hide, another file", site: "file_server {\n hide large.txt\n}", path: "/large.bin", want: isSent, body: "large.bin"},
	{name: "hide, the file", site: "file_server {\n hide large.bin\n}", path: "/large.bin", status: 404, want: isCopied},
	{name: "status", site: "file_server {\n status 203\n}", path: "/large.bin", status: 203, want: isFramed, body: "large.bin"},
	{name: "browse", site: "file_server browse", path: "/list/", want: isCopied},
	{name: "handle_errors", site: "file_server\n handle_errors {\n rewrite * /error.html\n file_server\n}",
		path: "/missing", status: 404, want: isFramed, body: "error.html"},
	{name: "encode compresses", site: "encode gzip\n file_server", path: "/large.txt",
		headers: []string{"Accept-Encoding", "gzip"}, want: isCopied, body: "large.txt", decode: true},
	{name: "encode, not accepted", site: "encode gzip\n file_server", path: "/large.txt", want: isSent, body: "large.txt"},
	{name: "encode, other type", site: "encode gzip\n file_server", path: "/large.bin",
		headers: []string{"Accept-Encoding", "gzip"}, want: isSent, body: "large.bin"},
	{name: "encode and precompressed", site: "encode gzip\n file_server {\n precompressed gzip\n}", path: "/large.txt",
		headers: []string{"Accept-Encoding", "gzip"}, want: isSent, body: "large.txt.gz"},
	{name: "templates", site: "templates\n file_server", path: "/page.html", want: isFramed, body: "page.html"},
	{name: "templates, other type", site: "templates\n file_server", path: "/large.bin", want: isSent, body: "large.bin"},
	{name: "intercept", site: "intercept {\n @bad status 500\n handle_response @bad {\n respond bad\n}\n}\n file_server",
		path: "/large.bin", want: isFramed, body: "large.bin"},
	{name: "header", site: "header X-One 1\n header >X-Two 2\n header -Etag\n file_server", path: "/large.bin", want: isSent, body: "large.bin"},
	{name: "rewrite and try_files", site: "try_files {path} /dir/index.html\n file_server", path: "/app", want: isSent, body: "dir/index.html"},
	{name: "handle", site: "handle /large* {\n file_server\n}", path: "/large.bin", want: isSent, body: "large.bin"},
	{name: "handle_path", site: "handle_path /prefix/* {\n file_server\n}", path: "/prefix/large.bin", want: isSent, body: "large.bin"},
	{name: "route", site: "route {\n file_server\n}", path: "/large.bin", want: isSent, body: "large.bin"},
	{name: "encode in handle", site: "handle {\n encode gzip\n file_server\n}", path: "/large.bin", want: isSent, body: "large.bin"},
	{name: "second ktls", site: "ktls\n file_server", path: "/large.bin", want: isSent, body: "large.bin"},
	{name: "ktls with a matcher that fits", ktls: "/large*", site: "file_server", path: "/large.bin", want: isSent, body: "large.bin"},
	{name: "ktls with a matcher that does not fit", ktls: "/other*", site: "file_server", path: "/large.bin", want: isCopied, body: "large.bin"},
	{name: "reverse_proxy", site: "reverse_proxy 127.0.0.1:{$PORT2}", path: "/large.bin", want: isFramed, body: "large.bin"},
	{name: "reverse_proxy with a file in handle_response", site: `reverse_proxy 127.0.0.1:{$PORT2} {
			@accel header X-Accel-Redirect *
			handle_response @accel {
				root {$ROOT}
				rewrite {rp.header.X-Accel-Redirect}
				method GET
				file_server
			}
		}`, path: "/accel", want: isSent, body: "large.bin"},
	{name: "request_body and vars", site: "request_body {\n max_size 1MB\n}\n vars a b\n file_server", path: "/large.bin", want: isSent, body: "large.bin"},
	{name: "timeouts", site: "timeouts {\n write_timeout 30s\n max_write_chunk 1MB\n}\n file_server", path: "/large.bin", want: isSent, body: "large.bin"},
	{name: "log_append", site: "log_append a b\n file_server", path: "/large.bin", want: isSent, body: "large.bin"},
}

// Every row is a site of its own, on one port.
func TestHandlers(t *testing.T) {
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	files := addHandlerFiles(t, c)
	var config strings.Builder
	config.WriteString(`
http://:{$PORT2} {
	header /accel X-Accel-Redirect /large.bin
	respond /accel "" 200
	root {$ROOT}
	file_server
}
`)
	for i, r := range rows {
		fmt.Fprintf(&config, "https://row%d.localhost:{$PORT} {\nktls %s\nroot {$ROOT}\n%s\n}\n", i, r.ktls, r.site)
	}
	c.Start(t, config.String())
	for i, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			c.ForEachProtocol(t, func(t *testing.T, client *http.Client) {
				before := c.Metrics(t)
				client.Transport.(*http.Transport).TLSClientConfig.ServerName = ""
				got, major := requestRow(t, client, fmt.Sprintf("https://row%d.localhost:%s%s", i, c.Port, r.path), r)
				if r.body != "" && got != files[r.body].Digest {
					t.Errorf("body has %v, want %v", got, files[r.body].Digest)
				}
				want := harness.Copied()
				switch {
				case r.want == isSent:
					want = harness.SentByKernel(files[r.body].Size)
				case r.want == isFramed && major == 2:
					want = harness.Counts{"connections:offloaded": 1}
				}
				c.Expect(t, before, want)
			})
		})
	}
}

// requestRow returns the digest of the body, decoded if it is to be, and the version
// of HTTP.
func requestRow(t *testing.T, client *http.Client, url string, r row) (body harness.Digest, major int) {
	t.Helper()
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	testutil.Must(t, err)
	for i := 0; i < len(r.headers); i += 2 {
		req.Header.Set(r.headers[i], r.headers[i+1])
	}
	resp, err := client.Do(req)
	testutil.Must(t, err)
	defer resp.Body.Close()
	if want := max(r.status, http.StatusOK); resp.StatusCode != want {
		t.Errorf("status %d, want %d", resp.StatusCode, want)
	}
	content := io.Reader(resp.Body)
	if r.decode {
		if got := resp.Header.Get("Content-Encoding"); got != "gzip" {
			t.Errorf("Content-Encoding %q, want gzip", got)
		}
		if content, err = gzip.NewReader(content); err != nil {
			t.Fatal(err)
		}
	}
	d := harness.NewDigester()
	_, err = io.Copy(d, content)
	testutil.Must(t, err)
	return d.Digest(), resp.ProtoMajor
}

func addHandlerFiles(t *testing.T, c *harness.Caddy) map[string]harness.File {
	t.Helper()
	files := map[string]harness.File{
		"large.bin":      c.Root.AddFile(t, "large.bin", harness.Large),
		"large.txt":      c.Root.AddText(t, "large.txt", harness.Large),
		"page.html":      c.Root.AddText(t, "page.html", harness.Large),
		"error.html":     c.Root.AddText(t, "error.html", harness.Large),
		"dir/index.html": c.Root.AddText(t, "dir/index.html", harness.Large),
		"list/a":         c.Root.AddText(t, "list/a", 10),
		// Not zstd, but nobody looks inside.
		"large.txt.zst": c.Root.AddFile(t, "large.txt.zst", harness.Large),
	}
	var packed bytes.Buffer
	w, err := gzip.NewWriterLevel(&packed, gzip.NoCompression)
	testutil.Must(t, err)
	_, _ = w.Write(files["large.txt"].Content)
	testutil.Must(t, w.Close())
	files["large.txt.gz"] = c.Root.AddContent(t, "large.txt.gz", packed.Bytes())
	return files
}
