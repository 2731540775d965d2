//go:build linux

package integration_test

import (
	"crypto/tls"
	"io"
	"net/http"
	"os"
	"syscall"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// rekeys reports whether the kernel can follow a KeyUpdate.
func rekeys(t testing.TB) bool {
	t.Helper()
	support, err := ktls.Probe()
	if err != nil {
		t.Fatal(err)
	}
	return support.Rekey
}

// A client may send a KeyUpdate on an offloaded connection. If it asks for one
// in return, and the kernel can't follow, the server closes the connection as
// soon as no response is under way.
func TestKeyUpdateBetweenRequests(t *testing.T) {
	requireKernelTLS(t)
	const rounds = 3
	c := newCaddy(t)
	// No longer, since gnutls-cli prints every byte by a system call of its own.
	f := c.addFile(t, "f", minSize)
	small := c.addFile(t, "small", 1000)
	c.start(t, "https://localhost:{$PORT} {"+reporting+"}")
	for _, program := range programs {
		start := func(t *testing.T) *peer {
			return c.connect(t, program, "localhost", suiteByID(tls.TLS_AES_128_GCM_SHA256))
		}
		t.Run(program.name+", not requested", func(t *testing.T) {
			before := c.metrics(t)
			p := start(t)
			for range rounds {
				p.wantFile(t, "/f", f)
				p.update(t, program.update)
				p.wantFile(t, "/small", small)
			}
			p.leave(t)
			c.expect(t, before, counts{
				"connections:offloaded": 1, "responses:sendfile": rounds, "sendfile_bytes": rounds * f.size,
			})
		})
		t.Run(program.name+", before the offload", func(t *testing.T) {
			before := c.metrics(t)
			p := start(t)
			for range rounds {
				p.wantFile(t, "/small", small)
				p.update(t, program.updateBoth)
			}
			p.wantFile(t, "/f", f)
			p.leave(t)
			c.expect(t, before, sentByKernel(f.size))
		})
		t.Run(program.name+", requested", func(t *testing.T) {
			before := c.metrics(t)
			p := start(t)
			want := answered(t, sentByKernel(f.size), 1)
			p.wantFile(t, "/f", f)
			p.update(t, program.updateBoth)
			if rekeys(t) {
				for range rounds {
					p.wantFile(t, "/small", small)
					p.update(t, program.updateBoth)
					p.wantFile(t, "/f", f)
					p.update(t, program.updateBoth)
				}
				want["key_updates"] += 2 * rounds
				want["responses:sendfile"] += rounds
				want["sendfile_bytes"] += rounds * f.size
				p.leave(t)
			} else {
				p.ended(t)
			}
			c.expect(t, before, want)
		})
		t.Run(program.name+", requested with a request behind it", func(t *testing.T) {
			p := start(t)
			p.wantFile(t, "/f", f)
			c.whileStopped(t, func() {
				p.update(t, program.updateBoth)
				p.request(t, "/f")
			})
			resp := p.response(t)
			body := newDigester()
			if _, err := io.Copy(body, resp.Body); err != nil {
				t.Fatal(err)
			}
			wantBody(t, response{resp, body.digest()}, http.StatusOK, f.digest)
			if resp.Close == rekeys(t) {
				t.Errorf("Connection: close is %v", resp.Close)
			}
			if rekeys(t) {
				p.leave(t)
			} else {
				p.ended(t)
			}
		})
		t.Run(program.name+", requested three times at once", func(t *testing.T) {
			before := c.metrics(t)
			p := start(t)
			p.wantFile(t, "/f", f)
			c.whileStopped(t, func() { p.updateThrice(t, program.updateBoth) })
			if rekeys(t) {
				p.wantFile(t, "/small", small)
				p.leave(t)
			} else {
				p.ended(t)
			}
			c.expect(t, before, answered(t, sentByKernel(f.size), anyNumber))
		})
	}
}

// answered adds what so many KeyUpdates change that ask for an answer.
func answered(t testing.TB, want counts, updates int64) counts {
	t.Helper()
	if rekeys(t) {
		want["key_updates"] = updates
	} else {
		want["connections_retired"] = 1
	}
	return want
}

func TestKeyUpdateDuringDownload(t *testing.T) {
	requireKernelTLS(t)
	c := startCaddy(t, "https://localhost:{$PORT} {"+reporting+"}")
	t.Run("not requested", func(t *testing.T) {
		c.testKeyUpdateDuringDownload(t, "localhost", openssl.update, true)
	})
	t.Run("requested", func(t *testing.T) {
		c.testKeyUpdateDuringDownload(t, "localhost", openssl.updateBoth, rekeys(t))
	})
}

// testKeyUpdateDuringDownload has openssl send KeyUpdates while it downloads. The
// response has to be whole, and then the connection has to last, or to be closed.
func (c *caddy) testKeyUpdateDuringDownload(t *testing.T, host, command string, lasts bool) {
	t.Helper()
	f := c.addFile(t, "download", huge)
	small := c.addFile(t, "small", 1000)
	before := c.metrics(t)
	p := c.connect(t, openssl, host, suiteByID(tls.TLS_AES_128_GCM_SHA256))
	resp := p.get(t, "/download")
	body := newDigester()
	if _, err := io.CopyN(body, resp.Body, 100_000); err != nil {
		t.Fatal(err)
	}
	rest := make(chan error, 1)
	c.whileStopped(t, func() {
		go func() {
			_, err := io.Copy(body, resp.Body)
			rest <- err
		}()
		p.updateThrice(t, command)
		if len(rest) > 0 {
			t.Error("the response was complete before the KeyUpdates: the test shows nothing")
		}
	})
	if err := <-rest; err != nil {
		t.Error(err)
	}
	wantBody(t, response{resp, body.digest()}, http.StatusOK, f.digest)
	if lasts {
		p.wantFile(t, "/small", small)
		p.leave(t)
	} else {
		p.ended(t)
	}
	want := sentByKernel(f.size)
	if command == openssl.updateBoth {
		want = answered(t, want, anyNumber)
	}
	c.expect(t, before, want)
}

// whileStopped calls f while the server stands still. A program that gets nothing
// more to receive comes to read commands, and the server gets at once what the
// program sends meanwhile.
func (c *caddy) whileStopped(t testing.TB, f func()) {
	t.Helper()
	c.signal(t, syscall.SIGSTOP)
	f()
	c.signal(t, syscall.SIGCONT)
}

func (c *caddy) signal(t testing.TB, signal os.Signal) {
	t.Helper()
	if err := c.cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
}
