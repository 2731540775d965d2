package caddyktls

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-ktls/caddy-ktls/fileserver"
	"github.com/caddy-ktls/caddy-ktls/internal/telemetry"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil/caddytest"
)

// BenchmarkServeHTTP is a response that no connection is known for, with what
// Caddy's server has for each, and metrics: stock is the next handler alone.
// Large is a file, which is counted, and copied.
func BenchmarkServeHTTP(b *testing.B) {
	for _, size := range []int{1 << 10, 1 << 20} {
		for _, with := range []string{"stock", "ktls"} {
			b.Run(fmt.Sprintf("size=%d/with=%s", size, with), func(b *testing.B) {
				next := benchHandler(b, size)
				serve := func(w http.ResponseWriter, r *http.Request) error { return next(w, r) }
				if with == "ktls" {
					h := &Handler{responses: telemetry.NewResponses(zap.NewNop(), b.Name()+rand.Text())}
					h.options = fileserver.Options{MinSize: fileserver.DefaultMinSize, Sending: h.responses.Sending}
					serve = func(w http.ResponseWriter, r *http.Request) error { return h.ServeHTTP(w, r, next) }
				}
				bottom := testutil.NewDiscarder()
				plain := httptest.NewRequest(http.MethodGet, "/", nil)
				plain.TLS = new(tls.ConnectionState)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					clear(bottom.Header())
					idle := caddytest.IdleWriter(bottom, 0, time.Minute)
					ctx := context.WithValue(plain.Context(), caddy.ReplacerCtxKey, caddy.NewReplacer())
					r := plain.WithContext(caddyhttp.ContextWithIdleTimeouts(ctx, nil, idle))
					if err := serve(idle, r); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// benchHandler returns a handler that responds with a body: a file if it is a
// large one.
func benchHandler(b *testing.B, size int) caddyhttp.HandlerFunc {
	body := make([]byte, size)
	if size < fileserver.DefaultMinSize {
		return func(w http.ResponseWriter, _ *http.Request) error {
			_, err := w.Write(body)
			return err
		}
	}
	f := testutil.OpenFile(b, body)
	length := []string{fmt.Sprint(size)}
	return func(w http.ResponseWriter, _ *http.Request) error {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		w.Header()["Content-Length"] = length
		_, err := io.Copy(w, f)
		return err
	}
}
