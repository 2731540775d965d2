package integration_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

// Caddy's writer at the bottom of its chain is where the module inserts its own.
// Behind that writer it does not matter where the directive stands; without it
// the module must not stand behind encode, and finds out.
func TestBehindEncode(t *testing.T) {
	requireKernelTLS(t)
	wrapped := counts{"connections:not_needed": 1, "responses:writer_wrapped": 1}
	tests := []struct {
		name, global string
		applies      bool // encode compresses
		want         counts
	}{
		{"order, compressed", "order ktls after encode", true, copied()},
		{"order, not compressed", "order ktls after encode", false, sentByKernel(large)},
		{"order, no idle timeout, compressed", "order ktls after encode\n" + noIdleTimeout, true, wrapped},
		{"order, no idle timeout, not compressed", "order ktls after encode\n" + noIdleTimeout, false, wrapped},
		{"no idle timeout, compressed", noIdleTimeout, true, copied()},
		{"no idle timeout, not compressed", noIdleTimeout, false, sentByKernel(large)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := newCaddy(t)
			name, add := "f.bin", c.addFile(t, "f.bin", large)
			if test.applies {
				name, add = "f.txt", c.addText(t, "f.txt", large)
			}
			c.start(t, "{\n"+test.global+`
}
https://localhost:{$PORT} {
	encode gzip
	ktls
	root {$ROOT}
	file_server
}`)
			before := c.metrics(t)
			got, _ := requestRow(t, c.client(t, nil), c.url("/"+name), row{
				headers: []string{"Accept-Encoding", "gzip"}, decode: test.applies,
			})
			if got != add.digest {
				t.Errorf("body has %v, want %v", got, add.digest)
			}
			c.expect(t, before, test.want)
			if test.want["responses:writer_wrapped"] > 0 {
				c.expectReason(t, "writer_wrapped", 1)
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
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", large)
	c.start(t, `
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
	before := c.metrics(t)
	wantBody(t, c.get(t, "/f", "Accept-Encoding", "gzip"), http.StatusOK, f.digest)
	c.expect(t, before, sentByKernel(f.size))
}

// The pieces in which Caddy hands a body down depend on this option.
func TestWriteChunks(t *testing.T) {
	requireKernelTLS(t)
	const size = 5<<20 + 4097
	for _, chunk := range []string{"4096", "5000", "100KB", "3MiB", "1GiB"} {
		t.Run(chunk, func(t *testing.T) {
			c := newCaddy(t)
			f := c.addFile(t, "f", size)
			c.start(t, `
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
`+site)
			before := c.metrics(t)
			wantBody(t, c.get(t, "/f"), http.StatusOK, f.digest)
			if chunk == "4096" { // no piece exceeds net/http's buffer
				c.expect(t, before, counts{"connections:not_needed": 1})
				return
			}
			c.expect(t, before, sentByKernel(f.size))
		})
	}
}

// A file that gets shorter while it is sent ends the connection: the client must
// not take what it has got for all of it.
func TestShrinkingFile(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	c.addFile(t, "f", huge)
	c.start(t, site)
	before := c.metrics(t)
	client := c.client(t, nil)
	resp, err := client.Get(c.url("/f"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.CopyN(io.Discard, resp.Body, 100_000); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(c.root, "f"), 64<<10); err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, resp.Body)
	if err == nil {
		t.Errorf("the body ended after %d more bytes as if it were complete", n)
	}
	eventually(t, "the response counts as failed", func() error {
		if c.metrics(t)["responses_failed"] == before["responses_failed"] {
			return fmt.Errorf("it does not")
		}
		return nil
	})
	fault(t, "Files", "A file is truncated", "during its download over HTTP/1.1", "the connection ends, so the transfer fails visibly")
}
