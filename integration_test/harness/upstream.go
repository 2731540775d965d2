package harness

import (
	"net"
	"net/http"
	"strconv"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// Upstream serves at PORT3, until the test ends, what the site is a proxy for. It also
// speaks HTTP/2 without TLS.
func Upstream(t testing.TB, c *Caddy, handler http.Handler) *http.Server {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:"+c.Getenv("PORT3"))
	testutil.Must(t, err)
	upstream := &http.Server{Handler: handler, Protocols: new(http.Protocols)}
	upstream.Protocols.SetHTTP1(true)
	upstream.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = upstream.Serve(ln) }()
	t.Cleanup(func() { _ = upstream.Close() })
	return upstream
}

// proxies is a site that is a proxy for the upstream in three ways.
const proxies = `
(proxies) {
	root {$ROOT}
	respond /protocol "{http.request.proto}"
	handle /proxied/* {
		reverse_proxy 127.0.0.1:{$PORT3}
	}
	handle /now/* {
		reverse_proxy 127.0.0.1:{$PORT3} {
			flush_interval -1
		}
	}
	handle /h2c/* {
		reverse_proxy h2c://127.0.0.1:{$PORT3}
	}
	file_server
}
`

// ProxySites returns a site with the module, and the same site without it at PORT2.
func ProxySites(offload string) string {
	return proxies + `
https://localhost:{$PORT} {
	ktls {
		offload ` + offload + `
	}
	import proxies
}
https://localhost:{$PORT2} {
	import proxies
}`
}

// Bodies returns a handler that serves a file. The last part of the path says in which
// way.
func Bodies(t testing.TB, f File) http.Handler {
	mux := http.NewServeMux()
	declare := func(w http.ResponseWriter, n int) {
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.Itoa(n))
	}
	mux.HandleFunc("/{way}/known/{size}", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.Atoi(r.PathValue("size"))
		if err != nil {
			t.Error(err)
		}
		declare(w, n)
		_, _ = w.Write(f.Content[:n])
	})
	mux.HandleFunc("/{way}/unknown", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(f.Content[:100_000])
		_ = http.NewResponseController(w).Flush()
		_, _ = w.Write(f.Content[100_000:Large])
	})
	mux.HandleFunc("/{way}/short", func(w http.ResponseWriter, _ *http.Request) {
		declare(w, Large)
		_, _ = w.Write(f.Content[:Large-50_000])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	mux.HandleFunc("/{way}/trailers", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Sum")
		if r.ProtoMajor == 2 {
			declare(w, Large)
		}
		_, _ = w.Write(f.Content[:Large])
		w.Header().Set("Sum", "all of it")
	})
	return mux
}
