//go:build linux

package integration_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// What sendfile(2) has accepted may still be in the kernel's TLS layer when the
// server closes. A client that can take little at a time has to get all of it,
// and close_notify: crypto/tls returns io.EOF for nothing else.
func TestCloseAfterResponse(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", 300_007)
	c.start(t, site)
	tests := []struct{ name, request string }{
		{"Connection: close", "GET /f HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"},
		{"HTTP/1.0", "GET /f HTTP/1.0\r\nHost: localhost\r\n\r\n"},
		{"HTTP/1.0, range", "GET /f HTTP/1.0\r\nHost: localhost\r\nRange: bytes=0-\r\n\r\n"},
	}
	for _, test := range tests {
		for _, buffer := range []int{4096, 64 << 10} {
			t.Run(fmt.Sprintf("%s, buffer of %d bytes", test.name, buffer), func(t *testing.T) {
				before := c.metrics(t)
				conn := tls.Client(c.dialNarrow(t, buffer), c.tlsConfig(t))
				if _, err := io.WriteString(conn, test.request); err != nil {
					t.Fatal(err)
				}
				// Let the server finish before anything is read.
				eventually(t, "the response has begun", func() error {
					if c.metrics(t)["responses:sendfile"] == before["responses:sendfile"] {
						return fmt.Errorf("it has not")
					}
					return nil
				})
				var all bytes.Buffer
				if _, err := io.Copy(&all, &slowReader{conn}); err != nil {
					t.Errorf("after %d bytes: %v", all.Len(), err)
				}
				resp, err := http.ReadResponse(bufio.NewReader(&all), nil)
				if err != nil {
					t.Fatal(err)
				}
				body := newDigester()
				if _, err := io.Copy(body, resp.Body); err != nil {
					t.Errorf("body: %v", err)
				}
				if body.digest() != f.digest {
					t.Errorf("body has %v, want %v", body.digest(), f.digest)
				}
				_ = conn.Close()
				c.expect(t, before, sentByKernel(f.size))
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

// Clients that go away in the middle of a file leave nothing behind, and harm
// nobody else. The kernel's TLS layer may forget the error, and then takes all
// of a file for a client that is gone.
func TestDisconnect(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", huge)
	small := c.addFile(t, "small", large)
	c.start(t, site)
	other := c.client(t, nil)
	c.warm(t, other, "/small", small)
	before, descriptors := c.metrics(t), c.descriptors(t)
	open := tlsStat(t, "TlsCurrTxSw")
	bystander := c.startDownload(t, "/f")

	const leaving = 4
	for i := range leaving {
		raw := c.dialNarrow(t, 64<<10)
		conn := tls.Client(raw, c.tlsConfig(t))
		if _, err := io.WriteString(conn, "GET /f HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, conn, 100_000); err != nil {
			t.Fatal(err)
		}
		switch i % 4 {
		case 0: // RST
			if err := raw.SetLinger(0); err != nil {
				t.Fatal(err)
			}
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
	wantBody(t, bystander.finish(t), http.StatusOK, f.digest)
	_ = bystander.conn.Close()
	wantBody(t, do(t, other, http.MethodGet, c.url("/small")), http.StatusOK, small.digest)
	eventually(t, "what the clients have left is gone", func() error {
		now := c.metrics(t)
		if n := now["connections:offloaded"] - before["connections:offloaded"]; n != leaving+1 {
			return fmt.Errorf("%d connections were offloaded, want %d", n, leaving+1)
		}
		if n := now["responses_failed"] - before["responses_failed"]; n != leaving {
			return fmt.Errorf("%d responses have failed, want %d", n, leaving)
		}
		if n := c.descriptors(t); n > descriptors {
			return fmt.Errorf("%d descriptors, before %d", n, descriptors)
		}
		if n := tlsStat(t, "TlsCurrTxSw"); n > open {
			return fmt.Errorf("the kernel has %d connections, before %d", n, open)
		}
		return nil
	})
}

// A download is a response that is being read slowly: so far, its beginning.
type download struct {
	conn   *tls.Conn
	reader *bufio.Reader
	resp   *http.Response
	body   *digester
}

// startDownload begins a download that the server can't finish by itself,
// because the client's window is small.
func (c *caddy) startDownload(t testing.TB, path string) *download {
	t.Helper()
	d := &download{conn: tls.Client(c.dialNarrow(t, 64<<10), c.tlsConfig(t)), body: newDigester()}
	if _, err := fmt.Fprintf(d.conn, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path); err != nil {
		t.Fatal(err)
	}
	d.reader = bufio.NewReader(d.conn)
	var err error
	if d.resp, err = http.ReadResponse(d.reader, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(d.body, d.resp.Body, 100_000); err != nil {
		t.Fatal(err)
	}
	return d
}

// finish reads the rest.
func (d *download) finish(t testing.TB) response {
	t.Helper()
	if _, err := io.Copy(d.body, d.resp.Body); err != nil {
		t.Errorf("after %d bytes: %v", d.body.size, err)
	}
	return response{d.resp, d.body.digest()}
}

const answer = `
https://localhost:{$PORT} {
	ktls
	root {$ROOT}
	respond /which "ANSWER"
	file_server
}`

// A download goes on, to its end, while the configuration is replaced.
func TestReload(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", huge)
	c.start(t, strings.ReplaceAll(answer, "ANSWER", "first"))
	which := func(word string) error {
		client := c.client(t, nil)
		defer client.CloseIdleConnections()
		resp, err := client.Get(c.url("/which"))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != word {
			return fmt.Errorf("the site answers %q, %v", body, err)
		}
		return nil
	}
	before := c.metrics(t)
	d := c.startDownload(t, "/f")
	for _, word := range []string{"second", "third"} {
		c.reload(t, strings.ReplaceAll(answer, "ANSWER", word))
		// net/http drops a request that reaches the old server just before
		// its end, with Caddy's own listener as with ours.
		eventually(t, "the site answers "+word, func() error { return which(word) })
	}
	if sent := c.metrics(t)["sendfile_bytes"] - before["sendfile_bytes"]; sent >= f.size {
		t.Fatal("the whole file was sent before the reload: the test shows nothing")
	}
	wantBody(t, d.finish(t), http.StatusOK, f.digest)
	_ = d.conn.Close()
	c.expect(t, before, counts{
		"connections:offloaded": 1, "responses:sendfile": 1, "sendfile_bytes": f.size, "connections:not_needed": anyNumber,
	})
	// The module's state belongs to the process.
	before = c.metrics(t)
	wantBody(t, c.get(t, "/f"), http.StatusOK, f.digest)
	c.expect(t, before, sentByKernel(f.size))
	fault(t, "Server life", "Two reloads during a download", "HTTP/1.1", "whole")
}

// A Caddy that is asked to end lets the download finish.
func TestStop(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", huge)
	c.start(t, site)
	d := c.startDownload(t, "/f")
	if err := c.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	eventually(t, "Caddy is ending", func() error {
		if len(c.entries("servers shutting down with eternal grace period")) == 0 {
			return fmt.Errorf("not in the log")
		}
		return nil
	})
	wantBody(t, d.finish(t), http.StatusOK, f.digest)
	_ = d.conn.Close()
	select {
	case <-c.exited:
	case <-time.After(patience):
		t.Error("Caddy does not end")
	}
	fault(t, "Server life", "SIGINT during a download", "HTTP/1.1, within the grace period", "whole, then it ends")
}
