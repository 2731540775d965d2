package integration_test

import (
	"crypto/tls"
	"io"
	"net/http"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A client may send a KeyUpdate on an offloaded connection. If it asks for one
// in return, and the kernel can't follow, the server closes the connection as
// soon as no response is under way.
func TestKeyUpdateBetweenRequests(t *testing.T) {
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	// No longer, because gnutls-cli prints every byte by a system call of its own.
	f := c.Root.AddFile(t, "f", harness.MinSize)
	small := c.Root.AddFile(t, "small", 1000)
	c.Start(t, "https://localhost:{$PORT} {"+reporting+"}")
	for _, program := range harness.Programs {
		u := updating{c, program, f, small}
		t.Run(program.Name+", not requested", u.testNotRequested)
		t.Run(program.Name+", before the offload", u.testBefore)
		t.Run(program.Name+", requested", u.testRequested)
		t.Run(program.Name+", requested with a request behind it", u.testRequestBehind)
		t.Run(program.Name+", requested three times at once", u.testThrice)
	}
}

// updating is a program that asks for files, and sends KeyUpdates between.
type updating struct {
	*harness.Caddy
	program  *harness.Program
	f, small harness.File
}

const updateRounds = 3

func (u updating) connect(t testing.TB) *harness.Peer {
	t.Helper()
	return harness.Connect(t, u.Site, u.program, "localhost", harness.SuiteByID(tls.TLS_AES_128_GCM_SHA256))
}

func (u updating) testNotRequested(t *testing.T) {
	before := u.Metrics(t)
	p := u.connect(t)
	for range updateRounds {
		p.WantFile(t, "/f", u.f)
		p.Update(t, u.program.Update)
		p.WantFile(t, "/small", u.small)
	}
	p.Leave(t)
	u.Expect(t, before, harness.SentTimes(1, updateRounds, updateRounds*u.f.Size))
}

func (u updating) testBefore(t *testing.T) {
	before := u.Metrics(t)
	p := u.connect(t)
	for range updateRounds {
		p.WantFile(t, "/small", u.small)
		p.Update(t, u.program.UpdateBoth)
	}
	p.WantFile(t, "/f", u.f)
	p.Leave(t)
	u.Expect(t, before, harness.SentByKernel(u.f.Size))
}

func (u updating) testRequested(t *testing.T) {
	before := u.Metrics(t)
	p := u.connect(t)
	want := answered(t, harness.SentByKernel(u.f.Size), 1)
	p.WantFile(t, "/f", u.f)
	p.Update(t, u.program.UpdateBoth)
	if harness.Rekeys(t) {
		for range updateRounds {
			p.WantFile(t, "/small", u.small)
			p.Update(t, u.program.UpdateBoth)
			p.WantFile(t, "/f", u.f)
			p.Update(t, u.program.UpdateBoth)
			want["key_updates"] += 2
			want.AddSent(u.f.Size)
		}
	}
	leaveOrEnd(t, p)
	u.Expect(t, before, want)
}

func (u updating) testRequestBehind(t *testing.T) {
	p := u.connect(t)
	p.WantFile(t, "/f", u.f)
	u.WhileStopped(t, func() {
		p.Update(t, u.program.UpdateBoth)
		p.Request(t, "/f")
	})
	resp := harness.ReadBody(t, p.Response(t))
	harness.WantBody(t, resp, http.StatusOK, u.f.Digest)
	if resp.Close == harness.Rekeys(t) {
		t.Errorf("Connection: close is %v", resp.Close)
	}
	leaveOrEnd(t, p)
}

func (u updating) testThrice(t *testing.T) {
	before := u.Metrics(t)
	p := u.connect(t)
	p.WantFile(t, "/f", u.f)
	u.WhileStopped(t, func() { p.UpdateThrice(t, u.program.UpdateBoth) })
	if harness.Rekeys(t) {
		p.WantFile(t, "/small", u.small)
	}
	leaveOrEnd(t, p)
	u.Expect(t, before, answered(t, harness.SentByKernel(u.f.Size), harness.AnyNumber))
}

// leaveOrEnd ends a connection, or waits until the server has because the kernel can't
// follow a KeyUpdate.
func leaveOrEnd(t testing.TB, p *harness.Peer) {
	t.Helper()
	if harness.Rekeys(t) {
		p.Leave(t)
	} else {
		p.WantEnd(t)
	}
}

// answered adds what so many KeyUpdates change that ask for an answer.
func answered(t testing.TB, want harness.Counts, updates int64) harness.Counts {
	t.Helper()
	if harness.Rekeys(t) {
		want["key_updates"] = updates
	} else {
		want["connections_retired"] = 1
	}
	return want
}

func TestKeyUpdateDuringDownload(t *testing.T) {
	harness.RequireKernelTLS(t)
	c := harness.StartCaddy(t, "https://localhost:{$PORT} {"+reporting+"}")
	t.Run("not requested", func(t *testing.T) {
		testKeyUpdateDuringDownload(t, c, "localhost", harness.OpenSSL.Update, true)
	})
	t.Run("requested", func(t *testing.T) {
		testKeyUpdateDuringDownload(t, c, "localhost", harness.OpenSSL.UpdateBoth, harness.Rekeys(t))
	})
}

// testKeyUpdateDuringDownload has openssl send KeyUpdates while it downloads. The
// response has to be whole, and then the connection has to last, or to be closed.
func testKeyUpdateDuringDownload(t *testing.T, c *harness.Caddy, host, command string, lasts bool) {
	t.Helper()
	f := c.Root.AddFile(t, "download", harness.Huge)
	small := c.Root.AddFile(t, "small", 1000)
	before := c.Metrics(t)
	p := harness.Connect(t, c.Site, harness.OpenSSL, host, harness.SuiteByID(tls.TLS_AES_128_GCM_SHA256))
	resp := p.Get(t, "/download")
	body := harness.NewDigester()
	_, err := io.CopyN(body, resp.Body, 100_000)
	testutil.Must(t, err)
	rest := make(chan error, 1)
	c.WhileStopped(t, func() {
		go func() {
			_, err := io.Copy(body, resp.Body)
			rest <- err
		}()
		p.UpdateThrice(t, command)
		if len(rest) > 0 {
			t.Error("the response was complete before the KeyUpdates: the test shows nothing")
		}
	})
	if err := <-rest; err != nil {
		t.Error(err)
	}
	harness.WantBody(t, harness.Response{Response: resp, Digest: body.Digest()}, http.StatusOK, f.Digest)
	if lasts {
		p.WantFile(t, "/small", small)
		p.Leave(t)
	} else {
		p.WantEnd(t)
	}
	want := harness.SentByKernel(f.Size)
	if command == harness.OpenSSL.UpdateBoth {
		want = answered(t, want, harness.AnyNumber)
	}
	c.Expect(t, before, want)
}
