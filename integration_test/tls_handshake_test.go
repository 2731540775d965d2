package integration_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// The module does the handshake in net/http's stead. What net/http does about it
// must not be lost.

func TestPlainHTTPToTLSPort(t *testing.T) {
	harness.RequireKernelTLS(t)
	c := harness.StartCaddy(t, harness.FileSite)
	before := c.Metrics(t)
	testPlainHTTPToTLSPort(t, c)
	c.Expect(t, before, harness.Copied())
	results.Fault(t, "Clients", "plain HTTP to the TLS port", "GET without TLS", "answered 400, as by stock Caddy")
}

func testPlainHTTPToTLSPort(t *testing.T, c *harness.Caddy) {
	t.Helper()
	conn := c.DialTCP(t)
	harness.SendGet(t, conn, "/")
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Logf("after the answer: %v", err) // RST, as with net/http
	}
	const want = "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
	if string(answer) != want {
		t.Errorf("answer %q, want %q", answer, want)
	}
	expectHandshakeError(t, c, "client sent an HTTP request to an HTTPS server")
}

func TestFailedHandshake(t *testing.T) {
	harness.RequireKernelTLS(t)
	c := harness.StartCaddy(t, harness.FileSite)
	config := c.TLSConfig(t)
	config.MaxVersion, config.MinVersion = tls.VersionTLS11, tls.VersionTLS10
	if _, err := tls.Dial("tcp", c.Address(), config); err == nil {
		t.Fatal("a handshake with TLS 1.1 works")
	}
	expectHandshakeError(t, c, "client offered only unsupported versions")

	conn := c.DialTCP(t)
	_, err := conn.Write(bytes.Repeat([]byte{0xff}, 100))
	testutil.Must(t, err)
	_, _ = io.Copy(io.Discard, conn)
	expectHandshakeError(t, c, "first record does not look like a TLS handshake")

	_ = c.DialTCP(t).Close()
	expectHandshakeError(t, c, "EOF")
}

func TestHandshakeTimeout(t *testing.T) {
	harness.RequireKernelTLS(t)
	c, f := harness.StartWithFile(t, harness.Large, `
{
	servers {
		listener_wrappers {
			ktls
		}
		timeouts {
			read_header 1s
		}
	}
}
`+harness.FileSite)
	before, start := c.Metrics(t), time.Now()
	conn := c.DialTCP(t)
	_ = conn.SetReadDeadline(start.Add(testutil.Patience))
	if n, err := conn.Read(make([]byte, 1)); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %d bytes, %v", n, err)
	}
	if passed := time.Since(start); passed < 900*time.Millisecond || passed > testutil.Patience/2 {
		t.Errorf("a silent client is cut after %v, want 1s", passed)
	}
	expectHandshakeError(t, c, "i/o timeout")
	c.Expect(t, before, harness.Copied()) // which comes after the line in the log

	// The limit ends with the handshake.
	before = c.Metrics(t)
	c.WantFile(t, "/f", f)
	c.Expect(t, before, harness.SentByKernel(f.Size))
	results.Fault(t, "Clients", "silent client", "connects and sends nothing", "cut after read_header, as by stock Caddy")
}

const itWorks = "It works."

// Clients have to speak what they negotiated.
func TestProtocolIsEnforced(t *testing.T) {
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	c.Root.AddContent(t, "small", []byte(itWorks))
	c.Start(t, harness.FileSite)
	const get = "GET /small HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
	tests := []struct {
		name, protocol, send string
		answered             bool
	}{
		{"HTTP/1.1", harness.HTTP1, get, true},
		{"HTTP/1.1, none negotiated", "", get, true},
		{"HTTP/2 on http/1.1", harness.HTTP1, http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00", false},
		{"HTTP/2, none negotiated", "", http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00", false},
		{"HTTP/1.1 on h2", harness.HTTP2, get, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			config := c.TLSConfig(t)
			config.NextProtos = nil
			if test.protocol != "" {
				config.NextProtos = []string{test.protocol}
			}
			conn := c.Dial(t, config)
			_ = conn.SetDeadline(time.Now().Add(testutil.Patience))
			_, err := io.WriteString(conn, test.send)
			testutil.Must(t, err)
			answer, err := io.ReadAll(conn)
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				t.Error("the connection stays open")
			}
			if got := bytes.Contains(answer, []byte(itWorks)); got != test.answered {
				t.Errorf("answered: %v, want %v; got %q", got, test.answered, answer)
			}
			if !test.answered && bytes.Contains(answer, []byte("HTTP/1")) {
				t.Errorf("answered: %q", answer)
			}
		})
	}
}

// A client of TLS 1.2 may ask for a new handshake.
func TestRenegotiation(t *testing.T) {
	harness.OnKernel(t, "6.1")
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	f := c.Root.AddFile(t, "f", harness.Large)
	small := c.Root.AddFile(t, "small", 1000)
	c.Start(t, harness.FileSite+harness.StockSite)
	suite := harness.SuiteByID(tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256)
	for _, test := range []struct {
		name, path string
		file       harness.File
		want       harness.Counts
	}{
		{"before the move", "/small", small, harness.Copied()},
		{"after the move", "/f", f, harness.SentByKernel(f.Size)},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := c.Metrics(t)
			result := c.SameAsStock(t, func(site harness.Site) string {
				p := harness.Connect(t, site, harness.OpenSSL, "localhost", suite, "-legacy_renegotiation")
				p.WantFile(t, test.path, test.file)
				p.Send(t, "R\n")
				rest, complaint, err := p.End()
				_, complaint, _ = strings.Cut(complaint, "RENEGOTIATING")
				alert := "no alert"
				for _, text := range []string{"unexpected message", "no renegotiation"} {
					if strings.Contains(complaint, text) {
						alert = text
					}
				}
				return fmt.Sprintf("%d bytes, %v, %s", len(rest), err != nil, alert)
			})
			if strings.Contains(result, "no alert") {
				t.Error(result)
			}
			t.Log(result)
			c.Expect(t, before, test.want)
		})
	}
	results.Fault(t, "Clients", "renegotiation", "TLS 1.2, before and after the move", "connection ended by the alert that stock Caddy sends")
}

// expectHandshakeError waits for the line that stock Caddy logs too.
func expectHandshakeError(t testing.TB, c *harness.Caddy, text string) {
	t.Helper()
	c.Log.Await(t, "a failed handshake with "+text, func(e harness.LogEntry) bool {
		return strings.HasPrefix(e.Message(), "http: TLS handshake error from 127.0.0.1:") &&
			strings.Contains(e.Message(), text) && e.Text("logger") == "http.stdlib" && e.Text("level") == "debug"
	})
}
