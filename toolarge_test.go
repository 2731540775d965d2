package caddyktls

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/requestbody"
	"go.uber.org/zap"

	"github.com/caddy-ktls/caddy-ktls/internal/telemetry"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A client whose body is too large gets the answer before it has sent all, where
// it would with stock Caddy: also if it is Caddy that answers, past our writer,
// because the handlers return an error.
func TestTooLargeByError(t *testing.T) {
	limit := requestbody.RequestBody{MaxSize: 1000}
	read := caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
		_, err := io.Copy(io.Discard, r.Body)
		return err
	})
	limited := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error { return limit.ServeHTTP(w, r, read) })
	h := &Handler{responses: telemetry.NewResponses(zap.NewNop(), "toolarge")}
	for _, tt := range []struct {
		name  string
		serve caddyhttp.HandlerFunc
	}{
		{"stock", limited},
		{"ktls", func(w http.ResponseWriter, r *http.Request) error { return h.ServeHTTP(w, r, limited) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				// As Caddy's server does with an error that no route handles.
				var failed caddyhttp.HandlerError
				if err := tt.serve(w, r); !errors.As(err, &failed) {
					t.Errorf("error %v", err)
				}
				w.WriteHeader(failed.StatusCode)
			}))
			conn, err := (&tls.Dialer{Config: testutil.ClientConfig(server.Client())}).DialContext(t.Context(), "tcp", server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n%2000d\r\n", 0); err != nil {
				t.Fatal(err)
			}
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			if response.StatusCode != http.StatusRequestEntityTooLarge || !response.Close {
				t.Errorf("%s, closes: %v", response.Status, response.Close)
			}
		})
	}
}
