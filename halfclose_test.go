package caddyktls

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil/caddytest"
)

// One half of an upgraded connection can be closed alone, whatever Caddy puts around
// the connections of a server with these protocols.
func TestHalfClose(t *testing.T) {
	hello, answer := bytes.Repeat([]byte("hello "), 20_000), bytes.Repeat([]byte("answer "), 20_000)
	backend := testutil.Listen(t)
	heard := make(chan []byte, 10)
	go func() {
		for {
			conn, err := backend.Accept()
			if err != nil {
				return
			}
			br := bufio.NewReader(conn)
			_, _ = http.ReadRequest(br)
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n")
			_, _ = conn.Write(hello)
			_ = conn.(*net.TCPConn).CloseWrite()
			b, _ := io.ReadAll(br)
			heard <- b
			conn.Close()
		}
	}()
	client, certificate, key := testCertificate(t)
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	})
	for _, protocols := range []string{"h1", "h1 h2"} {
		t.Run(protocols, func(t *testing.T) {
			address := testutil.FreeAddress(t)
			config, err := json.Marshal(caddytest.Config(t, fmt.Sprintf(`{
	auto_https disable_redirects
	servers {
		protocols %s
		listener_wrappers {
			ktls
		}
	}
}

https://%s {
	bind 127.0.0.1
	tls %s %s
	ktls
	reverse_proxy %s
}
`, protocols, address, certificate, key, backend.Addr())))
			if err != nil {
				t.Fatal(err)
			}
			if err := caddy.Load(config, true); err != nil {
				t.Fatal(err)
			}
			settings := client.Transport.(*http.Transport).TLSClientConfig.Clone()
			settings.NextProtos = nil
			conn, err := tls.Dial("tcp", address, settings)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(time.Minute))
			_, _ = fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n", address)
			br := bufio.NewReader(conn)
			response, err := http.ReadResponse(br, nil)
			if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
				t.Fatal(response, err)
			}
			if got, err := io.ReadAll(br); err != nil || !bytes.Equal(got, hello) {
				t.Errorf("got %d bytes of %d, %v", len(got), len(hello), err)
			}
			_, _ = conn.Write(answer)
			_ = conn.CloseWrite()
			if got := <-heard; !bytes.Equal(got, answer) {
				t.Errorf("the backend has got %d bytes of %d", len(got), len(answer))
			}
		})
	}
}
