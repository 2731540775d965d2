package integration_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"
)

// halfCloser is a backend that upgrades a connection, sends hello, closes its sending
// side, as docker attach's does when the command has ended, and reads on. What it
// has read to the end goes to got.
func halfCloser(t testing.TB, hello []byte) (addr string, got chan []byte) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { ln.Close() })
	got = make(chan []byte, 10)
	serve := func(conn net.Conn) {
		defer conn.Close()
		br := bufio.NewReader(conn)
		if _, err := http.ReadRequest(br); err != nil {
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n")
		_, _ = conn.Write(hello)
		_ = conn.(*net.TCPConn).CloseWrite()
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		b, _ := io.ReadAll(br)
		got <- b
	}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	return ln.Addr().String(), got
}

// An upgraded connection of which the backend closes one half carries data the other
// way, as without the module. Caddy's access log hides the half in both cases.
func TestUpgradeHalfClosed(t *testing.T) {
	requireKernelTLS(t)
	hello, answer := bytes.Repeat([]byte("hello "), 50_000), bytes.Repeat([]byte("answer "), 50_000)
	for _, accessLog := range []bool{false, true} {
		addr, got := halfCloser(t, hello)
		c := newCaddy(t)
		f := c.addFile(t, "f", large)
		var config, logs string
		if accessLog {
			logs = "log {\n output discard\n}\n"
		}
		for i, ktls := range []string{"", "ktls", "ktls {\n offload all\n}"} {
			config += fmt.Sprintf("https://localhost:{$PORT%s} {\n%s\n%sroot {$ROOT}\n@up header Connection Upgrade\nreverse_proxy @up %s\nfile_server\n}\n",
				[]string{"", "2", "3"}[i], ktls, logs, addr)
		}
		c.start(t, config)
		var stock string
		for i, name := range []string{"stock", "large", "all", "after a file"} {
			t.Run(fmt.Sprintf("%s, access log %v", name, accessLog), func(t *testing.T) {
				site := *c
				site.port = c.getenv([]string{"PORT", "PORT2", "PORT3", "PORT2"}[i])
				conn := site.dial(t, c.tlsConfig(t))
				defer conn.Close()
				must(t, conn.SetDeadline(time.Now().Add(patience)))
				br := bufio.NewReader(conn)
				if name == "after a file" {
					_, err := io.WriteString(conn, "GET /f HTTP/1.1\r\nHost: localhost\r\n\r\n")
					must(t, err)
					resp, err := http.ReadResponse(br, nil)
					must(t, err)
					hash := sha256.New()
					_, err = io.Copy(hash, resp.Body)
					must(t, err)
					if fmt.Sprintf("%x", hash.Sum(nil)) != fmt.Sprintf("%x", sha256.Sum256(f.content)) {
						t.Error("the file differs")
					}
				}
				_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n")
				must(t, err)
				resp, err := http.ReadResponse(br, nil)
				must(t, err)
				if resp.StatusCode != http.StatusSwitchingProtocols {
					t.Fatal(resp.Status)
				}
				end, err := io.ReadAll(br)
				if err != nil || !bytes.Equal(end, hello) {
					t.Errorf("%d bytes of %d, %v", len(end), len(hello), err)
				}
				_, _ = conn.Write(answer) // with the access log the connection may be closed
				_ = conn.CloseWrite()
				result := "nothing of the answer"
				if b := <-got; bytes.Equal(b, answer) {
					result = "the answer"
				}
				switch {
				case name == "stock":
					stock = result
				case result != stock:
					t.Errorf("the backend has got %s; with stock Caddy: %s", result, stock)
				}
				if !accessLog && result != "the answer" {
					t.Error("the backend has got " + result)
				}
				if want := i >= 2; c.wasOffloaded(conn) != want {
					t.Errorf("offloaded: %v", !want)
				}
			})
		}
	}
}

// wasOffloaded tells whether the log says that a client's connection was offloaded.
func (c *caddy) wasOffloaded(conn net.Conn) bool {
	return slices.ContainsFunc(c.log(), func(e logEntry) bool {
		return e.message() == "connection offloaded" && e.text("remote") == conn.LocalAddr().String()
	})
}
