package integration_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
)

// A client that grants what every connection begins with, and gives back only what it
// has got, gets everything: the server's small bodies, those of unknown length, and
// those that the module sends in its own frames. Nothing waits for ever.
func TestHTTP2DefaultWindows(t *testing.T) {
	harness.RequireKernelTLS(t)
	harness.OnKernel(t, "6.1")
	const size = 3<<20 + 1
	c := harness.NewCaddy(t)
	files := []harness.File{c.Root.AddFile(t, "0", size), c.Root.AddFile(t, "1", size), c.Root.AddFile(t, "2", harness.Large)}
	medium, proxied := c.Root.AddFile(t, "medium", 100_000), c.Root.AddFile(t, "proxied", 5<<20)
	harness.Upstream(t, c, harness.Bodies(t, proxied))
	c.Start(t, harness.ProxySites("large"))
	for _, test := range []struct {
		name    string
		windows harness.Windows
	}{
		{"given back at half", harness.Windows{Initial: harness.InitialWindow, MaxFrame: 16384, Stream: harness.InitialWindow / 2, Connection: harness.InitialWindow / 2}},
		{"given back when all is used", harness.Windows{Initial: harness.InitialWindow, MaxFrame: 16384, Stream: -harness.InitialWindow, Connection: -harness.InitialWindow}},
		{"the connection's given back when all is used", harness.Windows{Initial: 1 << 20, MaxFrame: 16384, Stream: 1 << 20, Connection: -harness.InitialWindow}},
		{"the streams' given back when all is used", harness.Windows{Initial: harness.InitialWindow, MaxFrame: 16384, Stream: -harness.InitialWindow, Connection: 1 << 24}},
	} {
		t.Run(test.name, func(t *testing.T) {
			before, want := c.Metrics(t), harness.Counts{"connections:offloaded": 1}
			h := harness.OpenHTTP2(t, c.Site, test.windows)
			type asked struct {
				response *harness.Stream
				body     harness.Digest
			}
			var all []asked
			ask := func(path string, body harness.Digest) { all = append(all, asked{h.Get(path), body}) }
			text := harness.DigestOf([]byte("HTTP/2.0"))
			const rounds = 2
			for range rounds {
				for i, f := range files {
					ask(fmt.Sprint("/", i), f.Digest)
					ask("/protocol", text)
					want.AddSent(f.Size)
				}
				ask("/medium", medium.Digest)
				ask(fmt.Sprintf("/proxied/known/%d", proxied.Size), proxied.Digest)
				ask("/proxied/unknown", proxied.Part(0, harness.Large))
				ask("/now/known/200000", proxied.Part(0, 200_000))
				// While the large ones are on their way, small ones come.
				for range 20 {
					h.WantBody(h.Get("/protocol"), http.StatusOK, text)
				}
			}
			for _, a := range all {
				h.WantBody(a.response, http.StatusOK, a.body)
			}
			// Each alone.
			for i, f := range files {
				h.WantFile(h.Get(fmt.Sprint("/", i)), f)
				want.AddSent(f.Size)
			}
			h.WantBody(h.Get("/proxied/known/1000000"), http.StatusOK, proxied.Part(0, 1_000_000))
			h.Close()
			c.Expect(t, before, want)
		})
	}
	results.Fault(t, "Clients", "client that grants no more than the default windows",
		"gives them back at half, or when all is used; files, proxied bodies and small ones on one connection", "whole; nothing waits for ever")
}

// Bodies that begin at the same time on the default windows end: some are still being
// begun by the server while the module needs what the server has of the window.
func TestHTTP2DefaultWindowsAtOnce(t *testing.T) {
	harness.RequireKernelTLS(t)
	harness.OnKernel(t, "6.12")
	const atOnce, rounds = 12, 10
	c := harness.NewCaddy(t)
	small, f := c.Root.AddFile(t, "small", 1000), c.Root.AddFile(t, "f", 200_000)
	c.Start(t, harness.FileSite)
	for name, windows := range map[string]harness.Windows{
		"at half":          {Initial: harness.InitialWindow, MaxFrame: 16384, Stream: harness.InitialWindow / 2, Connection: harness.InitialWindow / 2},
		"when all is used": {Initial: harness.InitialWindow, MaxFrame: 16384, Stream: -harness.InitialWindow, Connection: -harness.InitialWindow},
		"bit by bit":       {Initial: harness.InitialWindow, MaxFrame: 16384, Stream: harness.InitialWindow - 500, Connection: harness.InitialWindow - 500},
	} {
		t.Run(name, func(t *testing.T) {
			for range rounds {
				before := c.Metrics(t)
				h := harness.OpenHTTP2(t, c.Site, windows)
				var files, smalls []*harness.Stream
				for range atOnce {
					files, smalls = append(files, h.Get("/f")), append(smalls, h.Get("/small"))
				}
				for i := range atOnce {
					h.WantFile(files[i], f)
					h.WantFile(smalls[i], small)
				}
				h.Close()
				c.Expect(t, before, harness.SentTimes(1, atOnce, atOnce*f.Size))
			}
		})
	}
}
