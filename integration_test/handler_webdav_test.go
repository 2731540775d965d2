package integration_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"testing"

	caddyserver "github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/net/webdav"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

func init() {
	caddyserver.RegisterModule(testWebDAV{})
	httpcaddyfile.RegisterHandlerDirective("test_webdav", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		return new(testWebDAV), nil
	})
}

// A testWebDAV serves a site's root by golang.org/x/net/webdav, as the module
// caddy-webdav does.
type testWebDAV struct{ locks webdav.LockSystem }

func (testWebDAV) CaddyModule() caddyserver.ModuleInfo {
	return caddyserver.ModuleInfo{ID: "http.handlers.test_webdav", New: func() caddyserver.Module { return new(testWebDAV) }}
}

func (d *testWebDAV) Provision(caddyserver.Context) error {
	d.locks = webdav.NewMemLS()
	return nil
}

func (d *testWebDAV) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	root := r.Context().Value(caddyserver.ReplacerCtxKey).(*caddyserver.Replacer).ReplaceAll("{http.vars.root}", ".")
	(&webdav.Handler{FileSystem: webdav.Dir(root), LockSystem: d.locks}).ServeHTTP(w, r)
	return nil
}

// Files that WebDAV serves go out by sendfile(2), also while others are written. One that
// is written over with less is cut, as without the module.
func TestWebDAV(t *testing.T) {
	harness.OnKernel(t, "6.12")
	harness.RequireKernelTLS(t)
	const site = `
https://localhost:{$PORT%s} {
	%s
	root {$ROOT}
	route {
		test_webdav
	}
}`
	c := harness.NewCaddy(t)
	before, after := c.Root.AddFile(t, "before", harness.Huge), c.Root.AddFile(t, "after", harness.Large)
	c.Start(t, fmt.Sprintf(site+site, "", "ktls", "2", ""))
	for _, protocol := range harness.Protocols {
		t.Run(protocol, func(t *testing.T) {
			counted := c.Metrics(t)
			c.SameAsStock(t, func(s harness.Site) string {
				testutil.WriteFile(t, c.Root.Path("f"), before.Content)
				_ = os.Remove(c.Root.Path("other"))
				return visitWebDAV(t, c.Root, s, protocol, before, after)
			})
			const any = harness.AnyNumber
			c.Expect(t, counted, harness.Counts{
				"connections:offloaded": any, "connections:not_needed": any, "connections_lost": any,
				"responses:sendfile": 4, "responses_failed": 1, "sendfile_bytes": any,
			})
			if n := c.Metrics(t)["sendfile_bytes"] - counted["sendfile_bytes"]; n < before.Size+2*after.Size-3*harness.NotByKernel {
				t.Errorf("the kernel has sent %d bytes", n)
			}
		})
	}
	results.Fault(t, "Files", "A file that WebDAV serves (golang.org/x/net/webdav, as caddy-webdav does)", "PUT of other files meanwhile, PROPFIND; HTTP/1.1 and HTTP/2", "whole, by sendfile")
	results.Fault(t, "Files", "A file that WebDAV serves is replaced by a shorter one", "PUT over another connection during its download; HTTP/1.1 and HTTP/2", "cut, and visibly so, as without the module; over HTTP/2 with its connection, if it was in the middle of a frame; the new one is whole")
}

// visitWebDAV says what comes of requests to the site.
func visitWebDAV(t testing.TB, root harness.Root, s harness.Site, protocol string, before, after harness.File) string {
	t.Helper()
	client := s.NarrowClient(t, s.TLSConfig(t, protocol))
	defer client.CloseIdleConnections()
	// If a file becomes shorter in the middle of a frame, the connection ends, and with it
	// a PUT that goes over it.
	writer := s.ProtocolClient(t, protocol)
	defer writer.CloseIdleConnections()
	request := func(client *http.Client, method, path string, body []byte) *http.Response {
		r, err := http.NewRequestWithContext(t.Context(), method, s.URL(path), bytes.NewReader(body))
		testutil.Must(t, err)
		resp, err := client.Do(r)
		testutil.Must(t, err)
		return resp
	}
	put := func(path string) string {
		resp := harness.ReadBody(t, request(writer, http.MethodPut, path, after.Content))
		_ = resp.Body.Close()
		content, err := os.ReadFile(root.Path(path))
		testutil.Must(t, err)
		testutil.SameBody(t, content, after.Content)
		return resp.Status
	}
	// get gets the file, of which more is to come when do is called.
	get := func(do func() string) (done string, p harness.Partial) {
		resp := request(client, http.MethodGet, "/f", nil)
		defer resp.Body.Close()
		var got bytes.Buffer
		_, err := io.CopyN(&got, resp.Body, 100_000)
		testutil.Must(t, err)
		done = do()
		_, err = got.ReadFrom(resp.Body)
		return done, harness.Partial{Got: got.Bytes(), Err: err}
	}

	created, p := get(func() string { return put("/other") })
	said := fmt.Sprintf("PUT of another: %s; GET: %s; ", created, p.Is(before))
	resp := request(client, "PROPFIND", "/", nil)
	listing, err := io.ReadAll(resp.Body)
	testutil.Must(t, err)
	_ = resp.Body.Close()
	said += fmt.Sprintf("PROPFIND: %s, %d bytes, %d files; ", resp.Status, len(listing), bytes.Count(listing, []byte("getetag>"))/2)
	created, p = get(func() string { return put("/f") })
	said += fmt.Sprintf("PUT of the same: %s; GET: %s; ", created, isMixture(p, before, after))
	for _, path := range []string{"/f", "/other"} {
		resp := harness.ReadBody(t, request(client, http.MethodGet, path, nil))
		_ = resp.Body.Close()
		harness.WantBody(t, resp, http.StatusOK, after.Digest)
	}
	t.Log(said)
	return said
}

// isMixture says whether what has come is cut, and whether each byte is one that the file
// had at its place, before the PUT or after it.
func isMixture(p harness.Partial, before, after harness.File) string {
	for i, b := range p.Got {
		if b != before.Content[i] && (i >= len(after.Content) || b != after.Content[i]) {
			return fmt.Sprintf("byte %d is of neither file", i)
		}
	}
	if p.Err == nil {
		return fmt.Sprintf("%d bytes as if they were all", len(p.Got))
	}
	return "cut"
}
