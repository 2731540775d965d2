package integration_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// The module does the handshake in net/http's stead. What net/http does about it
// must not be lost.

func TestPlainHTTPToTLSPort(t *testing.T) {
	requireKernelTLS(t)
	c := startCaddy(t, site)
	before := c.metrics(t)
	testPlainHTTPToTLSPort(t, c)
	c.expect(t, before, copied())
	fault(t, "Clients", "plain HTTP to the TLS port", "GET without TLS", "answered 400, as by stock Caddy")
}

func testPlainHTTPToTLSPort(t *testing.T, c *caddy) {
	t.Helper()
	conn := c.dialTCP(t)
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Logf("after the answer: %v", err) // RST, as with net/http
	}
	const want = "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
	if string(answer) != want {
		t.Errorf("answer %q, want %q", answer, want)
	}
	c.expectHandshakeError(t, "client sent an HTTP request to an HTTPS server")
}

func TestFailedHandshake(t *testing.T) {
	requireKernelTLS(t)
	c := startCaddy(t, site)
	config := c.tlsConfig(t)
	config.MaxVersion, config.MinVersion = tls.VersionTLS11, tls.VersionTLS10
	if _, err := tls.Dial("tcp", "127.0.0.1:"+c.port, config); err == nil {
		t.Fatal("a handshake with TLS 1.1 works")
	}
	c.expectHandshakeError(t, "client offered only unsupported versions")

	conn := c.dialTCP(t)
	if _, err := conn.Write(bytes.Repeat([]byte{0xff}, 100)); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, conn)
	c.expectHandshakeError(t, "first record does not look like a TLS handshake")

	_ = c.dialTCP(t).Close()
	c.expectHandshakeError(t, "EOF")
}

// expectHandshakeError waits for the line that stock Caddy logs too.
func (c *caddy) expectHandshakeError(t testing.TB, text string) {
	t.Helper()
	eventually(t, "a failed handshake is logged", func() error {
		for _, entry := range c.log() {
			if strings.HasPrefix(entry.message(), "http: TLS handshake error from 127.0.0.1:") &&
				strings.Contains(entry.message(), text) &&
				entry.text("logger") == "http.stdlib" && entry.text("level") == "debug" {
				return nil
			}
		}
		return fmt.Errorf("no line with %q", text)
	})
}

func (c *caddy) dialTCP(t testing.TB) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", "127.0.0.1:"+c.port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestHandshakeTimeout(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", large)
	c.start(t, `
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
`+site)
	before, start := c.metrics(t), time.Now()
	conn := c.dialTCP(t)
	_ = conn.SetReadDeadline(start.Add(patience))
	if n, err := conn.Read(make([]byte, 1)); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %d bytes, %v", n, err)
	}
	if passed := time.Since(start); passed < 900*time.Millisecond || passed > patience/2 {
		t.Errorf("a silent client is cut after %v, want 1s", passed)
	}
	c.expectHandshakeError(t, "i/o timeout")
	c.expect(t, before, copied()) // which comes after the line in the log

	// The limit ends with the handshake.
	before = c.metrics(t)
	wantBody(t, c.get(t, "/f"), http.StatusOK, f.digest)
	c.expect(t, before, sentByKernel(f.size))
	fault(t, "Clients", "silent client", "connects and sends nothing", "cut after read_header, as by stock Caddy")
}

const itWorks = "It works."

// Clients have to speak what they negotiated.
func TestProtocolIsEnforced(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	c.addContent(t, "small", []byte(itWorks))
	c.start(t, site)
	const get = "GET /small HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
	tests := []struct {
		name, protocol, send string
		answered             bool
	}{
		{"HTTP/1.1", "http/1.1", get, true},
		{"HTTP/1.1, none negotiated", "", get, true},
		{"HTTP/2 on http/1.1", "http/1.1", http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00", false},
		{"HTTP/2, none negotiated", "", http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00", false},
		{"HTTP/1.1 on h2", "h2", get, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			config := c.tlsConfig(t)
			config.NextProtos = nil
			if test.protocol != "" {
				config.NextProtos = []string{test.protocol}
			}
			conn := c.dial(t, config)
			_ = conn.SetDeadline(time.Now().Add(patience))
			if _, err := io.WriteString(conn, test.send); err != nil {
				t.Fatal(err)
			}
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
