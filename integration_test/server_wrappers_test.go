package integration_test

import (
	"bytes"
	"crypto/tls"
	"net"
	"net/http"
	"strings"
	"testing"

	caddyserver "github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func init() { caddyserver.RegisterModule(copyingWrapper{}) }

// A copyingWrapper hands on a copy of what is written, as a listener wrapper may
// that shapes or counts traffic.
type copyingWrapper struct{}

func (copyingWrapper) CaddyModule() caddyserver.ModuleInfo {
	return caddyserver.ModuleInfo{ID: "caddy.listeners.test_copying", New: func() caddyserver.Module { return new(copyingWrapper) }}
}

func (copyingWrapper) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }

func (copyingWrapper) WrapListener(ln net.Listener) net.Listener { return copyingListener{ln} }

type copyingListener struct{ net.Listener }

func (l copyingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return copyingConn{conn}, err
}

type copyingConn struct{ net.Conn }

func (c copyingConn) Write(p []byte) (int, error) { return c.Conn.Write(bytes.Clone(p)) }

// ConnectionState is what Caddy asks wrappers to hand on.
func (c copyingConn) ConnectionState() tls.ConnectionState {
	return c.Conn.(interface{ ConnectionState() tls.ConnectionState }).ConnectionState()
}

// A listener wrapper that copies has one response fail, and no byte that isn't the
// file's gets out. The operator is told what to do, and all later files arrive.
func TestWrapperThatCopies(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", large)
	c.start(t, `
{
	servers {
		listener_wrappers {
			ktls {
				offload all
			}
			test_copying
		}
	}
}
https://localhost:{$PORT} {
	ktls
	root {$ROOT}
	file_server
}`)
	client := c.client(t, c.tlsConfig(t))
	if response, err := client.Get(c.url("/f")); err == nil {
		var got bytes.Buffer
		_, err := got.ReadFrom(response.Body)
		response.Body.Close()
		if err == nil || !bytes.HasPrefix(f.content, got.Bytes()) {
			t.Errorf("%d bytes, %v, of the file: %v", got.Len(), err, bytes.HasPrefix(f.content, got.Bytes()))
		}
	}
	for range 3 {
		wantBody(t, do(t, client, http.MethodGet, c.url("/f")), http.StatusOK, f.digest)
	}
	errors := 0
	for _, entry := range c.log() {
		if entry.text("level") == "error" && entry.text("logger") == "caddy.listeners.ktls" {
			errors++
			if message := entry.message(); !strings.Contains(message, "HTTP/1.1") || !strings.Contains(message, "test_copying") {
				t.Error(message)
			}
		}
	}
	if errors != 1 {
		t.Errorf("%d errors are logged, want 1", errors)
	}
}
