package integration_test

import (
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
)

// A site with an address of either kind.
func TestMixedSite(t *testing.T) {
	harness.RequireKernelTLS(t)
	c, f := harness.StartWithFile(t, harness.Large, `
http://localhost:{$PORT2}, https://localhost:{$PORT} {
	ktls
	root {$ROOT}
	file_server
}`)
	before := c.Metrics(t)
	c.WantFile(t, "/f", f)
	c.Expect(t, before, harness.SentByKernel(f.Size))

	before = c.Metrics(t)
	client := c.Client(t, nil)
	harness.WantFile(t, client, "http://localhost:"+c.Getenv("PORT2")+"/f", f)
	client.CloseIdleConnections()
	c.Expect(t, before, harness.Counts{}) // it is none of this module's business
}

// Only one of the sites on a port has the directive: the others' connections
// could be offloaded, but nobody asks for it.
func TestSitesOnOnePort(t *testing.T) {
	harness.RequireKernelTLS(t)
	c, f := harness.StartWithFile(t, harness.Large, `
(files) {
	root {$ROOT}
	file_server
}
https://one.localhost:{$PORT} {
	ktls
	import files
}
https://two.localhost:{$PORT} {
	ktls
	import files
}
https://three.localhost:{$PORT} {
	import files
}`)
	for _, test := range []struct {
		name string
		want harness.Counts
	}{
		{"one", harness.SentByKernel(f.Size)}, {"two", harness.SentByKernel(f.Size)}, {"three", harness.Copied()},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := c.Metrics(t)
			client := c.Client(t, nil)
			harness.WantFile(t, client, "https://"+test.name+".localhost:"+c.Port+"/f", f)
			client.CloseIdleConnections()
			c.Expect(t, before, test.want)
		})
	}
}

func TestMinSize(t *testing.T) {
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	f := c.Root.AddFile(t, "f", harness.Large)
	c.Root.AddFile(t, "short", 8<<10)
	c.Start(t, `
https://low.localhost:{$PORT} {
	ktls {
		min_size 8KiB
	}
	root {$ROOT}
	file_server
}
https://high.localhost:{$PORT} {
	ktls {
		min_size 1MiB
	}
	root {$ROOT}
	file_server
}`)
	tests := []struct {
		name, url string
		size      int64
		want      harness.Counts
	}{
		{"at the low limit", "https://low.localhost:" + c.Port + "/short", 8 << 10, harness.SentByKernel(8 << 10)},
		{"below the high limit", "https://high.localhost:" + c.Port + "/f", f.Size, harness.Copied()},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before := c.Metrics(t)
			client := c.Client(t, nil)
			resp := harness.Get(t, client, test.url)
			client.CloseIdleConnections()
			if resp.Digest.Size != test.size {
				t.Errorf("body has %d bytes, want %d", resp.Digest.Size, test.size)
			}
			c.Expect(t, before, test.want)
		})
	}
}
