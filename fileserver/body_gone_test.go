package fileserver

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"testing"

	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// A response whose client goes away before anything of the file was sent is counted as one
// that was not sent whole, also on a connection that was offloaded before.
func TestClientGoneBeforeFile(t *testing.T) {
	testutil.RequireKernelTLS(t, ktls.Probe)
	// The kernel takes some records also if it can't send them any more.
	name, _ := randomFile(t, 10_000_000)
	open := func(t *testing.T) *os.File {
		t.Helper()
		f, err := os.Open(name)
		testutil.Must(t, err)
		t.Cleanup(func() { f.Close() })
		return f
	}
	wantFailed := func(t *testing.T, s *site) {
		t.Helper()
		<-s.handled
		if len(s.reports) != 1 || len(s.failed) != 1 {
			t.Fatalf("%d responses and %d failures are counted, %d bytes by sendfile", len(s.reports), len(s.failed), s.sent.Load())
		}
		if reason, err := <-s.reports, <-s.failed; reason != ReasonNone || err == nil {
			t.Errorf("the reason is %q, the error %v", reason, err)
		}
	}
	for _, offloaded := range []bool{false, true} {
		t.Run(fmt.Sprintf("HTTP/1.1, offloaded before: %v", offloaded), func(t *testing.T) {
			s := newSite(t, 0, 0, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Length", "10000000")
				if r.URL.Path == "/whole" {
					_, _ = io.Copy(w, open(t))
					return
				}
				<-r.Context().Done()
				if n, err := io.Copy(w, open(t)); err == nil {
					t.Errorf("%d bytes written to nobody", n)
				}
			})
			conn := s.dial(t, "http/1.1")
			if offloaded {
				_, err := fmt.Fprint(conn, "GET /whole HTTP/1.1\r\nHost: example.com\r\n\r\n")
				testutil.Must(t, err)
				resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
				testutil.Must(t, err)
				_, err = io.Copy(io.Discard, resp.Body)
				testutil.Must(t, err)
				<-s.handled
				<-s.reports
			}
			_, err := fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n")
			testutil.Must(t, err)
			tcp := conn.NetConn().(*net.TCPConn)
			testutil.Must(t, tcp.SetLinger(0)) // with a reset
			testutil.Must(t, tcp.Close())
			wantFailed(t, s)
		})
	}
	t.Run("HTTP/2", func(t *testing.T) {
		s, _ := newHTTP2Site(t, func(w http.ResponseWriter, _ *http.Request) {
			if n, err := io.Copy(w, open(t)); err == nil {
				t.Errorf("%d bytes written to nobody", n)
			}
		})
		framer := s.askHTTP2(t, 0)
		for begun := false; !begun; {
			frame, err := framer.ReadFrame()
			testutil.Must(t, err)
			_, begun = frame.(*http2.HeadersFrame)
		}
		testutil.Must(t, framer.WriteRSTStream(1, http2.ErrCodeCancel))
		wantFailed(t, s)
	})
}
