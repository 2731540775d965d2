package integration_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"testing"

	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
)

// Whatever other handlers do on their streams, files come whole on theirs.
func TestHTTP2Handlers(t *testing.T) {
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	f, text := c.Root.AddFile(t, "f.bin", harness.Large), c.Root.AddText(t, "f.txt", harness.Large)
	page, failure := c.Root.AddText(t, "page.html", harness.Large), c.Root.AddText(t, "error.html", harness.Large)
	// A server that breaks off its answers, and one that reads what is posted.
	mux := http.NewServeMux()
	mux.HandleFunc("/broken", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000000")
		_, _ = w.Write(f.Content[:100_000])
		panic(http.ErrAbortHandler)
	})
	mux.HandleFunc("/reads", func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	upstream := harness.Upstream(t, c, mux)
	c.Start(t, `
https://localhost:{$PORT} {
	ktls {
		offload all
	}
	root {$ROOT}
	encode gzip
	templates /page.html
	@proxied path /broken /reads
	reverse_proxy @proxied 127.0.0.1:{$PORT3}
	file_server
	handle_errors 404 {
		rewrite /error.html
		file_server
	}
}`)
	descriptors, before := harness.Descriptors(t, c), c.Metrics(t)
	h := harness.OpenHTTP2(t, c.Site, harness.Windows{Initial: 30_000, MaxFrame: 16384, Stream: 30_001, Connection: 32 << 10})
	want := harness.Counts{"connections:offloaded": 1}
	const rounds = 5
	for range rounds {
		files := []*harness.Stream{h.Get("/f.bin"), h.Get("/f.txt")}
		packed := h.Request(http.MethodGet, "/f.txt", "accept-encoding", "gzip")
		files = append(files, h.Request(http.MethodGet, "/f.bin", "accept-encoding", "gzip"))
		broken := h.Get("/broken")
		upload := h.Begin(http2.PriorityParam{}, false, harness.Fields(http.MethodPost, "/reads")...)
		h.Send(func(f *http2.Framer) error { return f.WriteData(upload.ID, false, text.Content[:10_000]) })
		h.Cancel(upload)
		templated, missing := h.Get("/page.html"), h.Get("/missing")
		h.WantFile(files[0], f)
		h.WantFile(files[1], text)
		h.WantFile(files[2], f)
		h.WantFile(templated, page)
		h.WantBody(missing, http.StatusNotFound, failure.Digest)
		h.WantReset(broken)
		h.Over(packed)
		if r, err := gzip.NewReader(bytes.NewReader(packed.Body)); err != nil {
			t.Error(err)
		} else if unpacked, err := harness.ReadDigest(r); err != nil || unpacked != text.Digest {
			t.Errorf("unpacked: %v, %v, want %v", unpacked, err, text.Digest)
		}
		for _, sent := range []harness.File{f, text, f} {
			want.AddSent(sent.Size)
		}
	}
	h.Close()
	c.Expect(t, before, want)
	_ = upstream.Close() // and with it connections that Caddy keeps for other requests
	harness.WantDescriptors(t, c, descriptors)
}
