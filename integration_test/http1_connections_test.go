package integration_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// Small responses that follow a large one go through the kernel too; those
// before it do not, and the connection is kept.
func TestKeepAlive(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	small := c.addFile(t, "small", 1000)
	medium := c.addFile(t, "medium", 30<<10)
	big := c.addFile(t, "big", large)
	empty := c.addFile(t, "empty", 0)
	c.start(t, site)
	before := c.metrics(t)
	client := c.client(t, nil)
	sequence := []struct {
		path string
		file file
	}{
		{"/small", small}, {"/medium", medium}, {"/big", big}, {"/small", small}, {"/empty", empty}, {"/big", big},
		{"/big", big}, {"/medium", medium}, {"/small", small}, {"/big", big},
	}
	sendfile := counts{"connections:offloaded": 1}
	for i, step := range sequence {
		resp := do(t, client, http.MethodGet, c.url(step.path))
		wantBody(t, resp, http.StatusOK, step.file.digest)
		if step.file.size >= minSize {
			sendfile["responses:sendfile"]++
			sendfile["sendfile_bytes"] += step.file.size
		}
		if t.Failed() {
			t.Fatalf("request %d, %s", i, step.path)
		}
	}
	client.CloseIdleConnections()
	c.expect(t, before, sendfile)
}

func TestPipelined(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	small := c.addFile(t, "small", 1000)
	big := c.addFile(t, "big", large)
	c.start(t, site)
	before := c.metrics(t)
	conn := c.dial(t, c.tlsConfig(t))
	sequence := []struct {
		path string
		file file
	}{
		{"/small", small}, {"/big", big}, {"/big", big}, {"/small", small}, {"/big", big}, {"/small", small},
	}
	var requests strings.Builder
	for _, step := range sequence {
		fmt.Fprintf(&requests, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", step.path)
	}
	if _, err := io.WriteString(conn, requests.String()); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	for i, step := range sequence {
		resp, err := http.ReadResponse(reader, nil)
		if err != nil {
			t.Fatalf("response %d: %v", i, err)
		}
		body := newDigester()
		if _, err := io.Copy(body, resp.Body); err != nil {
			t.Fatalf("response %d: %v", i, err)
		}
		wantBody(t, response{resp, body.digest()}, http.StatusOK, step.file.digest)
	}
	_ = conn.Close()
	c.expect(t, before, counts{
		"connections:offloaded": 1, "responses:sendfile": 3, "sendfile_bytes": 3 * large,
	})
}

func TestParallel(t *testing.T) {
	requireKernelTLS(t)
	const downloads, rounds = 8, 2
	c := newCaddy(t)
	var files []file
	for i := range downloads {
		files = append(files, c.addFile(t, fmt.Sprint(i), large+int64(i)*10_007))
	}
	c.start(t, site)
	before := c.metrics(t)
	want := counts{"connections:offloaded": downloads, "responses:sendfile": downloads * rounds}
	var all sync.WaitGroup
	for i, f := range files {
		want["sendfile_bytes"] += rounds * f.size
		client := c.client(t, nil)
		all.Go(func() {
			defer client.CloseIdleConnections()
			for range rounds {
				resp, err := try(t, client, http.MethodGet, c.url(fmt.Sprintf("/%d", i)))
				if err != nil {
					t.Error(err)
					return
				}
				wantBody(t, resp, http.StatusOK, f.digest)
			}
		})
	}
	all.Wait()
	c.expect(t, before, want)
}

// HTTP/2 shares the port.
func TestHTTP2(t *testing.T) {
	requireKernelTLS(t)
	for _, offload := range []string{"large", "all"} {
		t.Run(offload, func(t *testing.T) {
			c := newCaddy(t)
			f := c.addFile(t, "f", large)
			c.start(t, offloading(offload))
			before := c.metrics(t)
			client := c.http2Client(t)
			const times = 3
			for range times {
				resp := do(t, client, http.MethodGet, c.url("/f"))
				wantBody(t, resp, http.StatusOK, f.digest)
				if resp.ProtoMajor != 2 {
					t.Errorf("protocol %s, want HTTP/2", resp.Proto)
				}
			}
			client.CloseIdleConnections()
			c.expect(t, before, counts{
				"connections:offloaded": 1, "responses:sendfile": times, "sendfile_bytes": times * f.size,
			})

			before = c.metrics(t)
			wantBody(t, c.get(t, "/f"), http.StatusOK, f.digest)
			c.expect(t, before, sentByKernel(f.size))
		})
	}
}

// http2Client returns a client that speaks HTTP/2.
func (c *caddy) http2Client(t testing.TB) *http.Client {
	config := c.tlsConfig(t)
	config.NextProtos = []string{"h2", "http/1.1"}
	return c.client(t, config)
}

// Every connection moves after the handshake, so small responses, errors and
// what has no body go through the kernel too.
func TestOffloadAll(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	small := c.addFile(t, "small", 1000)
	f := c.addFile(t, "f", large)
	c.start(t, `
https://localhost:{$PORT} {
	ktls {
		offload all
	}
	tls internal {
		client_auth {
			mode request
		}
	}
	root {$ROOT}
	file_server
}`)
	tests := []struct {
		name   string
		config func(*tls.Config)
	}{
		{"plain", func(*tls.Config) {}},
		{"with client certificate", func(config *tls.Config) {
			config.Certificates = []tls.Certificate{selfSigned(t)}
		}},
		{"without session tickets", func(config *tls.Config) { config.SessionTicketsDisabled = true }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before := c.metrics(t)
			config := c.tlsConfig(t)
			test.config(config)
			client := c.client(t, config)
			wantBody(t, do(t, client, http.MethodGet, c.url("/small")), http.StatusOK, small.digest)
			wantBody(t, do(t, client, http.MethodGet, c.url("/missing")), http.StatusNotFound, digestOf(nil))
			wantBody(t, do(t, client, http.MethodHead, c.url("/f")), http.StatusOK, digestOf(nil))
			c.expect(t, before, counts{"connections:offloaded": 1})
			wantBody(t, do(t, client, http.MethodGet, c.url("/f")), http.StatusOK, f.digest)
			client.CloseIdleConnections()
			c.expect(t, before, sentByKernel(f.size))
		})
	}
	t.Run("silent client", func(t *testing.T) {
		before := c.metrics(t)
		_ = c.dial(t, c.tlsConfig(t)).Close()
		c.expect(t, before, counts{"connections:not_needed": 1}) // nothing was written to it
	})
	// The kernel can't take a connection that has ended, which is no fault of
	// the kernel's.
	t.Run("clients that leave at once", func(t *testing.T) {
		before := c.metrics(t)
		const clients = 5
		for range clients {
			_ = c.dial(t, c.tlsConfig(t)).Close()
		}
		eventually(t, "all connections are counted", func() error {
			var all int64
			for name, n := range c.metrics(t) {
				if strings.HasPrefix(name, "connections:") {
					all += n - before[name]
				}
			}
			if all != clients {
				return fmt.Errorf("%d, want %d", all, clients)
			}
			return nil
		})
		if n := c.metrics(t)["connections:kernel_refused"]; n > 0 {
			t.Errorf("%d connections have the reason kernel_refused: %v", n, c.withReason("kernel_refused"))
		}
	})
}
