package integration_test

import (
	"net/http"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
)

// Caddy's writer at the bottom of its chain is where the module inserts its own.
// Behind that writer it does not matter where the directive stands; without it
// the module must not stand behind encode, and finds out.
func TestBehindEncode(t *testing.T) {
	harness.RequireKernelTLS(t)
	wrapped := harness.Counts{"connections:not_needed": 1, "responses:writer_wrapped": 1}
	tests := []struct {
		name, global string
		applies      bool // encode compresses
		want         harness.Counts
	}{
		{"order, compressed", "order ktls after encode", true, harness.Copied()},
		{"order, not compressed", "order ktls after encode", false, harness.SentByKernel(harness.Large)},
		{"order, no idle timeout, compressed", "order ktls after encode\n" + noIdleTimeout, true, wrapped},
		{"order, no idle timeout, not compressed", "order ktls after encode\n" + noIdleTimeout, false, wrapped},
		{"no idle timeout, compressed", noIdleTimeout, true, harness.Copied()},
		{"no idle timeout, not compressed", noIdleTimeout, false, harness.SentByKernel(harness.Large)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := harness.NewCaddy(t)
			name, add := "f.bin", c.Root.AddFile(t, "f.bin", harness.Large)
			if test.applies {
				name, add = "f.txt", c.Root.AddText(t, "f.txt", harness.Large)
			}
			c.Start(t, "{\n"+test.global+`
}
https://localhost:{$PORT} {
	encode gzip
	ktls
	root {$ROOT}
	file_server
}`)
			before := c.Metrics(t)
			got, _ := requestRow(t, c.Client(t, nil), c.URL("/"+name), row{
				headers: []string{"Accept-Encoding", "gzip"}, decode: test.applies,
			})
			if got != add.Digest {
				t.Errorf("body has %v, want %v", got, add.Digest)
			}
			c.Expect(t, before, test.want)
			if test.want["responses:writer_wrapped"] > 0 {
				c.Log.ExpectReason(t, "writer_wrapped", 1)
			}
		})
	}
}

// noIdleTimeout keeps Caddy from inserting its writer. A matching servers block
// replaces the listener wrappers; so the module's is named here.
const noIdleTimeout = `
	servers {
		listener_wrappers {
			ktls
		}
		timeouts {
			write_idle -1s
		}
	}`

// Inside handle the directive works too if the wrapper is given.
func TestInsideHandle(t *testing.T) {
	harness.RequireKernelTLS(t)
	c, f := harness.StartWithFile(t, harness.Large, `
{
	servers {
		listener_wrappers {
			ktls
		}
	}
}
https://localhost:{$PORT} {
	root {$ROOT}
	handle {
		ktls
		encode gzip
		file_server
	}
}`)
	before := c.Metrics(t)
	harness.WantBody(t, c.Get(t, "/f", "Accept-Encoding", "gzip"), http.StatusOK, f.Digest)
	c.Expect(t, before, harness.SentByKernel(f.Size))
}

// The pieces in which Caddy hands a body down depend on this option.
func TestWriteChunks(t *testing.T) {
	harness.RequireKernelTLS(t)
	const size = 5<<20 + 4097
	for _, chunk := range []string{"4096", "5000", "100KB", "3MiB", "1GiB"} {
		t.Run(chunk, func(t *testing.T) {
			c, f := harness.StartWithFile(t, size, `
{
	servers {
		listener_wrappers {
			ktls
		}
		timeouts {
			write_max_chunk `+chunk+`
		}
	}
}
`+harness.FileSite)
			before := c.Metrics(t)
			c.WantFile(t, "/f", f)
			if chunk == "4096" { // no piece exceeds net/http's buffer
				c.Expect(t, before, harness.Counts{"connections:not_needed": 1})
				return
			}
			c.Expect(t, before, harness.SentByKernel(f.Size))
		})
	}
}
