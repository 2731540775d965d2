package fileserver

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// Bodies of all lengths around those of Caddy's parts and net/http's buffer, one
// after the other on one connection.
func TestBodies(t *testing.T) {
	testutil.RequireKernelTLS(t, ktls.Probe)
	const part = 16 << 10
	for _, idle := range []time.Duration{0, time.Minute} {
		for _, typed := range []bool{true, false} {
			t.Run(fmt.Sprintf("idle timeout %v, typed %v", idle, typed), func(t *testing.T) {
				var name string
				s := newSite(t, part, idle, func(w http.ResponseWriter, r *http.Request) {
					if typed {
						w.Header().Set("Content-Type", "application/octet-stream")
					}
					f, err := os.Open(name)
					if err != nil {
						t.Error(err)
						return
					}
					defer f.Close()
					info, _ := f.Stat()
					w.Header().Set("Content-Length", fmt.Sprint(info.Size()))
					n, err := io.Copy(w, io.LimitReader(f, info.Size()))
					if n != info.Size() || err != nil {
						t.Errorf("copied %d of %d, %v", n, info.Size(), err)
					}
				})
				for _, n := range []int{
					9_999, 10_000, part - 1, part, part + 1, part + 511, part + 513, part + 4095, part + 4096,
					part + 4097, 5*part - 1, 5 * part, 5*part + 1, 5*part + 4096, 5*part + 4097, 3_000_000,
				} {
					var body []byte
					name, body = randomFile(t, n)
					s.sent.Store(0)
					response, got, err := s.get(t)
					if err != nil || sha256.Sum256(got) != sha256.Sum256(body) || len(got) != n {
						t.Fatalf("%d bytes: got %d, %v", n, len(got), err)
					}
					if !typed && response.Header.Get("Content-Type") != http.DetectContentType(body) {
						t.Errorf("Content-Type %q", response.Header.Get("Content-Type"))
					}
					if n < 10_000 {
						continue
					}
					if reason := <-s.reports; reason != ReasonNone {
						t.Errorf("%d bytes: reason %q", n, reason)
					}
					// All but what is copied: for the Content-Type, the
					// end, and what moves the connection.
					least := n - sniffLen - httpBuffer
					if sent := int(s.sent.Load()); sent > n || sent < least {
						t.Errorf("%d bytes: sendfile sent %d", n, sent)
					}
				}
			})
		}
	}
}

// The lengths of Caddy's parts may be set, and be such that their ends are short.
func TestParts(t *testing.T) {
	testutil.RequireKernelTLS(t, ktls.Probe)
	for _, part := range []int{1000, 4 << 10, 12 << 10, maxPart, maxPart + 4097, maxPart + 8<<10, 4 << 20} {
		t.Run(fmt.Sprint(part), func(t *testing.T) {
			name, body := randomFile(t, part+max(part/2, 2_000_000))
			s := newSite(t, part, time.Minute, func(w http.ResponseWriter, r *http.Request) {
				http.ServeFile(w, r, name)
			})
			for range 2 {
				s.sent.Store(0)
				_, got, err := s.get(t)
				if err != nil || !bytes.Equal(got, body) {
					t.Fatalf("got %d bytes of %d, %v", len(got), len(body), err)
				}
				want := part > httpBuffer
				if sent := s.sent.Load() > int64(len(body))/2; sent != want {
					t.Errorf("sendfile sent %d bytes of %d", s.sent.Load(), len(body))
				}
			}
		})
	}
}
