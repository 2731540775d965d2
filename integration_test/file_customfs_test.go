package integration_test

import (
	"embed"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	caddyserver "github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A testFS is a file system of Caddy's: kind is what it gives as a file.
type testFS struct {
	fs.FS `json:"-"`
	Kind  string `json:"kind"`
}

func init() { caddyserver.RegisterModule(testFS{}) }

//go:embed *.go
var embedded embed.FS

func (testFS) CaddyModule() caddyserver.ModuleInfo {
	return caddyserver.ModuleInfo{ID: "caddy.fs.test", New: func() caddyserver.Module { return new(testFS) }}
}

func (f *testFS) Provision(caddyserver.Context) error {
	dir := os.DirFS(os.Getenv("ROOT"))
	switch f.Kind {
	case "folder": // *os.File
		f.FS = dir
	case "inverted":
		f.FS = invertedFS{dir}
	case "memory":
		content, err := fs.ReadFile(dir, "f")
		if err != nil {
			return err
		}
		f.FS = fstest.MapFS{"f": {Data: content}}
	case "embedded":
		f.FS = embedded
	}
	return nil
}

func (f *testFS) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the name
	if !d.Args(&f.Kind) {
		return d.ArgErr()
	}
	return nil
}

// An invertedFS has files that embed an *os.File, and read something else.
type invertedFS struct{ fs.FS }

func (i invertedFS) Open(name string) (fs.File, error) {
	f, err := i.FS.Open(name)
	if err != nil {
		return nil, err
	}
	return invertedFile{f.(*os.File)}, nil
}

type invertedFile struct{ *os.File }

func (f invertedFile) Read(p []byte) (int, error) {
	n, err := f.File.Read(p)
	for i := range p[:n] {
		p[i] = ^p[i]
	}
	return n, err
}

// Files of other file systems of Caddy's come as these read them: by sendfile(2)
// only where they are the operating system's own.
func TestCustomFileSystem(t *testing.T) {
	harness.OnKernel(t, "6.12")
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	f := c.Root.AddFile(t, "f", harness.Large)
	inverted := make([]byte, len(f.Content))
	for i, b := range f.Content {
		inverted[i] = ^b
	}
	const source = "file_conformance_requests_test.go"
	text, err := embedded.ReadFile(source)
	testutil.Must(t, err)
	tests := []struct {
		kind, path string
		want       harness.Digest
		sent       bool
	}{
		{"folder", "/f", f.Digest, true},
		{"inverted", "/f", harness.DigestOf(inverted), false},
		{"memory", "/f", f.Digest, false},
		{"embedded", "/" + source, harness.DigestOf(text), false},
	}
	var global, handlers strings.Builder
	for _, test := range tests {
		fmt.Fprintf(&global, "filesystem %[1]s test %[1]s\n", test.kind)
		fmt.Fprintf(&handlers, "handle_path /%[1]s/* {\nfile_server {\nfs %[1]s\n}\n}\n", test.kind)
	}
	c.Start(t, "{\n"+global.String()+"}\nhttps://localhost:{$PORT} {\nktls {\nmin_size 8KiB\n}\n"+handlers.String()+"}\n")
	for _, test := range tests {
		t.Run(test.kind, func(t *testing.T) {
			c.ForEachProtocol(t, func(t *testing.T, client *http.Client) {
				before := c.Metrics(t)
				resp := harness.Get(t, client, c.URL("/"+test.kind+test.path))
				harness.WantBody(t, resp, http.StatusOK, test.want)
				client.CloseIdleConnections()
				if test.sent {
					c.Expect(t, before, harness.SentByKernel(test.want.Size))
				} else {
					want := harness.Copied()
					if resp.ProtoMajor == 2 { // there a large body need not be a file
						want = harness.Counts{"connections:offloaded": 1}
					}
					c.Expect(t, before, want)
				}
			})
		})
	}
	results.Fault(t, "Files", "A file system of Caddy's that opens other files than the operating system's",
		"in memory, embedded in the program, or a file that reads otherwise than the one it embeds", "whole, as it reads; copied")
}
