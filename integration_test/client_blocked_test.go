//go:build linux

package integration_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync/atomic"
	"testing"
	"time"
)

// A flood is a backend that takes any upgrade, and then sends without an end.
type flood struct {
	addr  string
	sent  atomic.Int64
	ended chan struct{} // gets one for each connection
}

func newFlood(t testing.TB) *flood {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { ln.Close() })
	f := &flood{addr: ln.Addr().String(), ended: make(chan struct{}, 10)}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				f.serve(conn)
				f.ended <- struct{}{}
			}()
		}
	}()
	return f
}

func (f *flood) serve(conn net.Conn) {
	defer conn.Close()
	if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
		return
	}
	_, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: flood\r\n\r\n")
	for piece := make([]byte, 64<<10); err == nil; {
		var n int
		n, err = conn.Write(piece)
		f.sent.Add(int64(n))
	}
}

// blockedClient returns the connection of a client that has asked for the flood and
// reads no more, when Caddy can't send any more to it.
func (f *flood) blockedClient(t testing.TB, c *caddy, path string) *tls.Conn {
	t.Helper()
	var conn *tls.Conn
	// After a reload the old configuration may take a connection yet, and close it.
	eventually(t, "the connection is upgraded", func() error {
		conn = tls.Client(c.dialNarrow(t, 64<<10), c.tlsConfig(t))
		must(t, conn.SetReadDeadline(time.Now().Add(patience)))
		_, err := io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: flood\r\n\r\n")
		if err != nil {
			return err
		}
		_, err = conn.Read(make([]byte, 12))
		return err
	})
	last := int64(-1)
	eventually(t, "nothing more fits", func() error {
		now := f.sent.Load()
		if now == last && now > 64<<10 {
			return nil
		}
		last = now
		time.Sleep(200 * time.Millisecond)
		return fmt.Errorf("%d bytes have been sent", now)
	})
	return conn
}

// within fails if f takes longer than Caddy may wait for a client.
func within(t testing.TB, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("%s waits for a client that does not read", what)
	}
}

// One client that does not read its upgraded connection holds up nobody: neither the
// timeout of its stream, nor a reload, nor the end of Caddy.
func TestBlockedUpgrade(t *testing.T) {
	const config = `
https://localhost:{$PORT} {
	%s
	log_append round %d
	reverse_proxy /timeout %[3]s {
		stream_timeout 2s
	}
	reverse_proxy %[3]s
}`
	for _, directive := range []string{"", "ktls", "ktls {\n\t\toffload all\n\t}"} {
		t.Run(directive, func(t *testing.T) {
			f := newFlood(t)
			c := startCaddy(t, fmt.Sprintf(config, directive, 1, f.addr))

			_ = f.blockedClient(t, c, "/timeout")
			within(t, "stream_timeout", func() { <-f.ended })

			_ = f.blockedClient(t, c, "/")
			within(t, "the reload", func() { c.reload(t, fmt.Sprintf(config, directive, 2, f.addr)) })
			within(t, "the old configuration", func() { <-f.ended })

			_ = f.blockedClient(t, c, "/")
			must(t, c.cmd.Process.Signal(os.Interrupt))
			within(t, "the end of Caddy", func() { <-c.exited })
		})
	}
}

// A handshake that hangs, because its certificate doesn't come, holds up nobody.
func TestBlockedHandshake(t *testing.T) {
	asked, end := make(chan string, 100), make(chan struct{})
	certificates := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Path
		<-end // and never an answer
	}))
	defer certificates.Close()
	defer close(end)
	const config = `
https://:{$PORT} {
	%s
	tls {
		get_certificate http http://%s/%d
	}
	respond ok
}`
	for _, directive := range []string{"", "ktls", "ktls {\n\t\toffload all\n\t}"} {
		t.Run(directive, func(t *testing.T) {
			c := startCaddy(t, fmt.Sprintf(config, directive, certificates.Listener.Addr(), 1))
			// A connection that the configuration before has taken asks for
			// nothing any more, so there may have to be another.
			begin := func(path string) {
				eventually(t, "a handshake waits for its certificate", func() error {
					conn, err := net.Dial("tcp", "127.0.0.1:"+c.port)
					must(t, err)
					t.Cleanup(func() { conn.Close() })
					go func() {
						_ = tls.Client(conn, &tls.Config{ServerName: "localhost", InsecureSkipVerify: true}).Handshake()
					}()
					for timeout := time.After(2 * time.Second); ; {
						select {
						case got := <-asked:
							if got == path {
								return nil
							}
						case <-timeout:
							return fmt.Errorf("nobody has asked for it")
						}
					}
				})
			}
			begin("/1")
			within(t, "the reload", func() { c.reload(t, fmt.Sprintf(config, directive, certificates.Listener.Addr(), 2)) })
			begin("/2")
			must(t, c.cmd.Process.Signal(os.Interrupt))
			within(t, "the end of Caddy", func() { <-c.exited })
		})
	}
}
