package caddyktls

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-ktls/caddy-ktls/fileserver"
	"github.com/caddy-ktls/caddy-ktls/internal/telemetry"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// The placeholders have values in the handlers behind, and afterwards.
func TestPlaceholders(t *testing.T) {
	for _, tt := range []struct {
		name          string
		inert         bool
		plain         bool // no TLS
		body          string
		before, after any
		bytes         any
		err           error
	}{
		{name: "no kernel TLS", inert: true, body: "large file", before: "kernel_unsupported", after: "kernel_unsupported", bytes: int64(0)},
		{name: "text", body: "text", before: "not_offloadable", after: "not_offloadable", bytes: int64(0)},
		{name: "file", body: "large file", before: "not_offloadable", after: "not_offloadable", bytes: int64(0)},
		{name: "error", body: "nothing", before: "not_offloadable", after: "not_offloadable", bytes: int64(0), err: errors.New("bad")},
		{name: "plain HTTP", plain: true, body: "text"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			repl := caddy.NewReplacer()
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r = r.WithContext(context.WithValue(r.Context(), caddy.ReplacerCtxKey, repl))
			if !tt.plain {
				r.TLS = new(tls.ConnectionState)
			}
			h := &Handler{inert: tt.inert, responses: telemetry.NewResponses(zap.NewNop(), t.Name()+rand.Text())}
			h.options = fileserver.Options{MinSize: fileserver.DefaultMinSize, Sending: h.responses.Sending}
			want := func(when, key string, want any) {
				if got, ok := repl.Get("http.ktls." + key); got != want || ok != (want != nil) {
					t.Errorf("%s the body, %s is %v, want %v", when, key, got, want)
				}
			}
			err := h.ServeHTTP(httptest.NewRecorder(), r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
				want("before", "status", tt.before)
				want("before", "sendfile_bytes", tt.bytes)
				testutil.Respond(t, w, tt.body, fileserver.DefaultMinSize)
				return tt.err
			}))
			if !errors.Is(err, tt.err) {
				t.Errorf("error %v, want %v", err, tt.err)
			}
			want("after", "status", tt.after)
			want("after", "sendfile_bytes", tt.bytes)
			if _, ok := repl.Get("http.ktls.other"); ok {
				t.Error("another placeholder is known")
			}
		})
	}
}
