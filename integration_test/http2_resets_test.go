package integration_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
)

// Streams are reset at any moment, while frames wait to be written, handlers return
// and descriptors are used again: what comes on a stream is its own file's.
func TestHTTP2RandomResets(t *testing.T) {
	harness.RequireKernelTLS(t)
	harness.OnKernel(t, "6.1")
	for name, test := range map[string]struct {
		site    string
		windows harness.Windows
	}{
		"windows of 40000":            {harness.HTTP2Site, harness.Windows{Initial: 40_000, MaxFrame: 16384, Stream: 20_011, Connection: 1 << 20}},
		"frames that wait":            {harness.HTTP2Site, harness.Windows{Initial: 3001, MaxFrame: 16384, Stream: 2999, Connection: 1 << 20}},
		"frames that wait and encode": {strings.Replace(harness.HTTP2Site, "file_server", "encode gzip\n\tfile_server", 1), harness.Windows{Initial: 3001, MaxFrame: 16384, Stream: 2999, Connection: 1 << 20}},
	} {
		t.Run(name, func(t *testing.T) { testRandomResets(t, test.site, test.windows) })
	}
}

func testRandomResets(t *testing.T, site string, windows harness.Windows) {
	c := harness.NewCaddy(t)
	var files []harness.File
	for i := range 16 {
		files = append(files, c.Root.AddFile(t, fmt.Sprintf("%d.bin", i), int64(100_000+i*13_007)))
	}
	c.Start(t, site)
	descriptors, before := harness.Descriptors(t, c), c.Metrics(t)
	random := rand.New(rand.NewPCG(1, 2))
	h := harness.OpenHTTP2(t, c.Site, windows)
	type asked struct {
		response *harness.Stream
		file     harness.File
		canceled bool
	}
	var all []asked
	for range 120 {
		i := random.IntN(len(files))
		response := h.Request(http.MethodGet, fmt.Sprintf("/%d.bin", i), "accept-encoding", "gzip")
		a := asked{response, files[i], true}
		switch random.IntN(4) {
		case 0: // at once
			h.Cancel(a.response)
		case 1:
			h.Begun(a.response, 1+random.IntN(int(a.file.Size)))
			h.Cancel(a.response)
		case 2: // one that was asked for before
			a.canceled = false
			if len(all) > 0 {
				old := &all[random.IntN(len(all))]
				old.canceled = true
				h.Cancel(old.response)
			}
		default:
			a.canceled = false
		}
		all = append(all, a)
	}
	var sent int64
	for _, a := range all {
		if !a.canceled {
			h.WantFile(a.response, a.file)
		}
		sent += h.WantPrefix(a.response, a.file)
	}
	h.WantFile(h.Get("/0.bin"), files[0])
	for _, a := range all {
		h.WantPrefix(a.response, a.file)
	}
	h.Close()
	// The first bytes of a file don't come from the kernel behind encode.
	n := c.Metrics(t)["sendfile_bytes"] - before["sendfile_bytes"]
	if least := sent - int64(len(all))*harness.NotByKernel; n < least {
		t.Errorf("%d bytes have gone out by sendfile, of %d that were received", n, sent)
	}
	harness.WantDescriptors(t, c, descriptors)
}

// Requests that are taken back at once harm no other stream, and their
// descriptors are closed while the connection lasts.
func TestHTTP2RapidResets(t *testing.T) {
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	f, other := c.Root.AddFile(t, "f.bin", harness.Large), c.Root.AddFile(t, "other.bin", 2<<20)
	c.Start(t, harness.HTTP2Site)
	h := harness.OpenHTTP2(t, c.Site, harness.Windows{Initial: 50_000, MaxFrame: 16384, Stream: 50_000, Connection: 1 << 20})
	h.WantFile(h.Get("/f.bin"), f)
	descriptors := harness.Descriptors(t, c)
	bystanders := []*harness.Stream{h.Get("/other.bin"), h.Get("/other.bin")}
	for range 200 {
		s := h.Get("/f.bin")
		h.Cancel(s)
		defer h.WantPrefix(s, f)
	}
	for _, s := range bystanders {
		h.WantFile(s, other)
	}
	h.WantFile(h.Get("/f.bin"), f)
	harness.WantDescriptors(t, c, descriptors)
	h.WantFile(h.Get("/f.bin"), f)
}

// A connection outlasts any number of resets.
func TestHTTP2ManyResets(t *testing.T) {
	harness.RequireKernelTLS(t)
	harness.OnKernel(t, "7.2")
	c := harness.NewCaddy(t)
	f := c.Root.AddFile(t, "f.bin", harness.Large)
	// On a slow machine the bystander waits for longer than a stalled client may.
	c.Start(t, `
{
	servers {
		listener_wrappers {
			ktls {
				offload all
			}
		}
		timeouts {
			write_idle 10m
		}
	}
}`+harness.HTTP2Site)
	h := harness.OpenHTTP2(t, c.Site, harness.Windows{Initial: 10_000, MaxFrame: 16384, Connection: 1 << 20})
	bystander := h.Get("/f.bin")
	h.Begun(bystander, 10_000)
	for i := range 1200 {
		ended := h.Get("/protocol")
		h.Wait("a response", func() bool { return ended.Ended })
		h.Cancel(ended)
		h.Cancel(h.Get("/protocol"))
		if i%4 == 0 {
			begun := h.Get("/f.bin")
			h.Begun(begun, 10_000)
			h.Cancel(begun)
			h.Grant(nil, 10_000)
		}
	}
	h.Widen()
	h.WantFile(bystander, f)
	h.WantFile(h.Get("/f.bin"), f)
	h.Close()
}
