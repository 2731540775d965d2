package fileserver

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"testing"
	"time"
)

// A file is longer than its Content-Length, and loses meanwhile what exceeds it. The
// response is whole, as nothing is missing that was promised. If more is lost, it is
// cut off.
func TestSurplusLost(t *testing.T) {
	requireKernelTLS(t)
	const length = 10 << 20
	for _, http2 := range []bool{false, true} {
		for _, idle := range []time.Duration{0, time.Minute} {
			if http2 && idle > 0 {
				continue // its site has none
			}
			for _, left := range []int64{length, length - 1} {
				t.Run(fmt.Sprintf("HTTP/2 %v, idle timeouts %v, %d left of %d", http2, idle, left, length), func(t *testing.T) {
					restoreTrust(t)
					name, body := randomFile(t, 11<<20)
					handler := func(w http.ResponseWriter, _ *http.Request) {
						f, err := os.Open(name)
						must(t, err)
						defer f.Close()
						w.Header().Set("Content-Length", fmt.Sprint(length))
						_, _ = io.Copy(w, f)
					}
					var s *site
					if http2 {
						s, _ = newHTTP2Site(t, handler)
					} else {
						s = newSite(t, 0, idle, handler)
					}
					response, err := s.Get(s.url)
					must(t, err)
					defer response.Body.Close()
					// The client has read nothing of the body, of which the most is
					// still to be sent.
					must(t, os.Truncate(name, left))
					got, err := io.ReadAll(response.Body)
					<-s.handled
					if whole := err == nil && sha256.Sum256(got) == sha256.Sum256(body[:length]); whole != (left == length) {
						t.Errorf("got %d bytes, %v", len(got), err)
					}
					if reason := <-s.reports; reason != ReasonNone || s.sent.Load() == 0 || len(s.distrusted) > 0 {
						t.Errorf("reason %q, %d bytes by sendfile", reason, s.sent.Load())
					}
				})
			}
		}
	}
}
