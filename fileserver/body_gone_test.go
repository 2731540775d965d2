package fileserver

import (
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

// A response whose client goes away before anything of the file was sent is counted as
// that.
func TestClientGoneBeforeFile(t *testing.T) {
	testutil.RequireKernelTLS(t, ktls.Probe)
	name, _ := randomFile(t, 100_000)
	open := func(t *testing.T) *os.File {
		t.Helper()
		f, err := os.Open(name)
		testutil.Must(t, err)
		t.Cleanup(func() { f.Close() })
		return f
	}
	wantClosing := func(t *testing.T, s *site) {
		t.Helper()
		<-s.handled
		select {
		case reason := <-s.reports:
			if reason != reasonOf(ktls.Closing) {
				t.Errorf("the reason is %q", reason)
			}
		default:
			t.Error("nothing is counted")
		}
		if n := s.sent.Load(); n != 0 {
			t.Errorf("%d bytes by sendfile", n)
		}
	}
	t.Run("HTTP/1.1", func(t *testing.T) {
		s := newSite(t, 0, 0, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100000")
			<-r.Context().Done()
			if n, err := io.Copy(w, open(t)); err == nil {
				t.Errorf("%d bytes written to nobody", n)
			}
		})
		conn := s.dial(t, "http/1.1")
		_, err := fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n")
		testutil.Must(t, err)
		tcp := conn.NetConn().(*net.TCPConn)
		testutil.Must(t, tcp.SetLinger(0)) // with a reset
		testutil.Must(t, tcp.Close())
		wantClosing(t, s)
	})
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
		wantClosing(t, s)
	})
}
