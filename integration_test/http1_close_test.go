package integration_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// What sendfile(2) has accepted may still be in the kernel's TLS layer when the
// server closes. A client that can take little at a time has to get all of it,
// and close_notify.
func TestCloseAfterResponse(t *testing.T) {
	harness.RequireKernelTLS(t)
	c, f := harness.StartWithFile(t, 300_007, harness.FileSite)
	tests := []struct {
		name, request string
		status        int
	}{
		{"Connection: close", harness.RequestText("/f", "Connection: close"), http.StatusOK},
		{"HTTP/1.0", "GET /f HTTP/1.0\r\nHost: localhost\r\n\r\n", http.StatusOK},
		{"HTTP/1.0, range", "GET /f HTTP/1.0\r\nHost: localhost\r\nRange: bytes=0-\r\n\r\n", http.StatusPartialContent},
	}
	for _, test := range tests {
		for _, buffer := range []int{4096, 64 << 10} {
			t.Run(fmt.Sprintf("%s, buffer of %d bytes", test.name, buffer), func(t *testing.T) {
				before := c.Metrics(t)
				raw := &harness.TrailedConn{TCPConn: c.DialTCP(t, harness.ReceiveBuffer(buffer))}
				conn := tls.Client(raw, c.TLSConfig(t))
				_, err := io.WriteString(conn, test.request)
				testutil.Must(t, err)
				// Let the server finish before anything is read.
				testutil.Eventually(t, "the response has begun", func() error {
					if c.Metrics(t)["responses:sendfile"] == before["responses:sendfile"] {
						return fmt.Errorf("it has not")
					}
					return nil
				})
				var all bytes.Buffer
				if _, err := io.Copy(&all, &slowReader{conn}); err != nil || !raw.CloseNotify() {
					t.Errorf("after %d bytes: %v, close_notify %v", all.Len(), err, raw.CloseNotify())
				}
				harness.WantBody(t, harness.ReadResponse(t, bufio.NewReader(&all)), test.status, f.Digest)
				_ = conn.Close()
				c.Expect(t, before, harness.SentByKernel(f.Size))
			})
		}
	}
}

// A slowReader reads little at a time, and waits in between.
type slowReader struct{ io.Reader }

func (r *slowReader) Read(p []byte) (int, error) {
	time.Sleep(time.Millisecond)
	return r.Reader.Read(p[:min(len(p), 8<<10)])
}
