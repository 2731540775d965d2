package fileserver

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// What a handler makes of the header when net/http has taken it has no effect.
func TestLateHeader(t *testing.T) {
	testutil.RequireKernelTLS(t, ktls.Probe)
	const n, less = 300_000, 100_000
	name, body := randomFile(t, n)
	for _, tt := range []struct {
		name   string
		before func(w http.ResponseWriter)
		want   int
	}{
		{"length behind the status", func(w http.ResponseWriter) { w.WriteHeader(http.StatusOK) }, n},
		{"length behind a flush", func(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() }, n},
		{"length behind the body's first bytes", func(w http.ResponseWriter) { _, _ = w.Write(nil) }, n},
		{"greater length behind the status", func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", fmt.Sprint(less))
			w.WriteHeader(http.StatusOK)
		}, less},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t, 0, time.Minute, func(w http.ResponseWriter, r *http.Request) {
				f, err := os.Open(name)
				if err != nil {
					t.Error(err)
					return
				}
				defer f.Close()
				tt.before(w)
				w.Header().Set("Content-Length", fmt.Sprint(n))
				_, _ = io.Copy(w, f)
			})
			for range 2 {
				_, got, err := s.get(t)
				if err != nil || !bytes.Equal(got, body[:tt.want]) {
					t.Errorf("got %d bytes, %v, want %d", len(got), err, tt.want)
				}
			}
		})
	}
}

func TestContentLength(t *testing.T) {
	for _, tt := range []struct {
		name   string
		values []string
		want   int64
		ok     bool
	}{
		{"none", nil, 0, false},
		{"zero", []string{"0"}, 0, true},
		{"large", []string{"5000000000"}, 5_000_000_000, true},
		{"negative", []string{"-1"}, -1, false},
		{"no number", []string{"x"}, 0, false},
		{"two", []string{"1", "1"}, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := contentLength(http.Header{"Content-Length": tt.values})
			if ok != tt.ok || ok && got != tt.want {
				t.Errorf("got %d, %v", got, ok)
			}
		})
	}
}
