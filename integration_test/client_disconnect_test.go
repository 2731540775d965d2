package integration_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// Clients that go away in the middle of a file leave nothing behind, and harm
// nobody else. The kernel's TLS layer may forget the error, and then takes all
// of a file for a client that is gone.
func TestDisconnect(t *testing.T) {
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	f := c.Root.AddFile(t, "f", harness.Huge)
	small := c.Root.AddFile(t, "small", harness.Large)
	c.Start(t, harness.FileSite)
	other := c.Client(t, nil)
	harness.Warm(t, c, other, "/small", small)
	before, descriptors := c.Metrics(t), harness.Descriptors(t, c)
	open := harness.TLSStat(t, "TlsCurrTxSw")
	bystander := harness.StartDownload(t, c.Site, "/f")

	const leaving = 4
	for i := range leaving {
		raw := c.DialTCP(t, harness.ReceiveBuffer(64<<10))
		conn := tls.Client(raw, c.TLSConfig(t))
		harness.SendGet(t, conn, "/f")
		_, err := io.CopyN(io.Discard, conn, 100_000)
		testutil.Must(t, err)
		switch i % 4 {
		case 0: // RST
			testutil.Must(t, raw.SetLinger(0))
			_ = raw.Close()
		case 1: // close_notify and FIN, then RST for what still comes
			_ = conn.Close()
		case 2: // FIN
			_ = raw.Close()
		case 3: // close_notify, and the connection stays; then RST
			_ = conn.CloseWrite()
			_ = raw.Close()
		}
	}
	bystander.WantFile(t, f)
	harness.WantFile(t, other, c.URL("/small"), small)
	testutil.Eventually(t, "what the clients have left is gone", func() error {
		now := c.Metrics(t)
		if n := now["connections:offloaded"] - before["connections:offloaded"]; n != leaving+1 {
			return fmt.Errorf("%d connections were offloaded, want %d", n, leaving+1)
		}
		if n := now["responses_failed"] - before["responses_failed"]; n != leaving {
			return fmt.Errorf("%d responses have failed, want %d", n, leaving)
		}
		if n := harness.Descriptors(t, c); n > descriptors {
			return fmt.Errorf("%d descriptors, before %d", n, descriptors)
		}
		if n := harness.TLSStat(t, "TlsCurrTxSw"); n > open {
			return fmt.Errorf("the kernel has %d connections, before %d", n, open)
		}
		return nil
	})
}

// A client that goes away leaves nothing behind.
func TestHTTP2Leaving(t *testing.T) {
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	f := c.Root.AddFile(t, "f.bin", harness.Huge)
	c.Start(t, harness.HTTP2Site)
	descriptors, goroutines := harness.Descriptors(t, c), harness.Goroutines(t, c)
	leave := map[string]func(conn *net.TCPConn, h *harness.HTTP2Conn){
		"RST": func(conn *net.TCPConn, _ *harness.HTTP2Conn) {
			_ = conn.SetLinger(0)
			_ = conn.Close()
		},
		"FIN":          func(conn *net.TCPConn, _ *harness.HTTP2Conn) { _ = conn.Close() },
		"close_notify": func(_ *net.TCPConn, h *harness.HTTP2Conn) { h.Close() },
	}
	for name, leave := range leave {
		t.Run(name, func(t *testing.T) {
			before := c.Metrics(t)
			raw := c.DialTCP(t)
			h := harness.NewHTTP2(t, tls.Client(raw, c.TLSConfig(t, harness.HTTP2)), harness.WideWindows())
			var streams []*harness.Stream
			for range 6 {
				streams = append(streams, h.Get("/f.bin"))
			}
			for _, s := range streams {
				h.Begun(s, 50_000)
			}
			leave(raw, h)
			<-h.Done
			for _, s := range streams {
				h.WantPrefix(s, f)
			}
			harness.WantDescriptors(t, c, descriptors)
			testutil.Eventually(t, "goroutines end", func() error {
				if n := harness.Goroutines(t, c); n > goroutines {
					return fmt.Errorf("%d, before %d", n, goroutines)
				}
				return nil
			})
			if n := c.Metrics(t)["responses:sendfile"] - before["responses:sendfile"]; n != 6 {
				t.Errorf("%d responses by sendfile, want 6", n)
			}
		})
	}
}
