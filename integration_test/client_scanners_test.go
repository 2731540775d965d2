package integration_test

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// What port scanners send.
func TestScanners(t *testing.T) {
	harness.OnKernel(t, "6.12")
	harness.RequireKernelTLS(t)
	c := harness.StartCaddy(t, harness.BothSites())
	sslv2 := append([]byte{0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10}, make([]byte, 37)...)
	for _, test := range []struct{ name, send string }{
		{"nothing", ""},
		{"hello of SSLv2", string(sslv2)},
		{"random bytes", "\x9c\x01\xfe\x33\x00\x7a\x11\xd0"},
		{"SSH", "SSH-2.0-OpenSSH_9.2\r\n"},
		{"plain HTTP", harness.RequestText("/")},
		{"plain HTTP, another method", "CONNECT localhost:443 HTTP/1.1\r\n\r\n"},
		{"plain HTTP/2", http2.ClientPreface},
		{"PROXY protocol", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"},
		{"part of a record", "\x16\x03\x01\x02\x00\x01\x00"},
		{"record of zeros", "\x16\x03\x01\x00\x40" + strings.Repeat("\x00", 64)},
		{"empty ClientHello", "\x16\x03\x01\x00\x04\x01\x00\x00\x00"},
		{"alert", "\x15\x03\x01\x00\x02\x02\x28"},
		{"data", "\x17\x03\x03\x00\x05hello"},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := c.Metrics(t)
			result := c.SameAsStock(t, func(site harness.Site) string {
				conn := site.DialTCP(t)
				testutil.Must(t, conn.SetDeadline(time.Now().Add(testutil.Patience)))
				_, err := io.WriteString(conn, test.send)
				testutil.Must(t, err)
				testutil.Must(t, conn.CloseWrite())
				answer, err := io.ReadAll(conn)
				if err != nil {
					err = fmt.Errorf("%s", harness.Plain(err))
				}
				// The log tells of the handshake under the client's address.
				prefix := "http: TLS handshake error from " + conn.LocalAddr().String() + ": "
				entry := c.Log.Await(t, prefix, func(e harness.LogEntry) bool { return strings.HasPrefix(e.Message(), prefix) })
				line := strings.TrimPrefix(entry.Message(), prefix)
				return fmt.Sprintf("%q, %v; %s", answer, err, line)
			})
			t.Log(result)
			c.Expect(t, before, harness.Copied())
		})
	}
	results.Fault(t, "Clients", "port scanners", "connect and close, hello of SSLv2, random bytes, other protocols",
		"the answer and the line in the log that stock Caddy gives")
}
