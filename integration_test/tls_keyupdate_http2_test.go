package integration_test

import (
	"crypto/tls"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
)

// An openedHTTP2 speaks HTTP/2 through openssl.
type openedHTTP2 struct {
	*harness.HTTP2Conn
	peer *harness.Peer
}

func openHTTP2(t testing.TB, c *harness.Caddy) openedHTTP2 {
	t.Helper()
	suite := harness.SuiteByID(tls.TLS_AES_128_GCM_SHA256)
	p := harness.Connect(t, c.Site, harness.OpenSSL, "localhost", suite, "-alpn", harness.HTTP2)
	return openedHTTP2{harness.NewHTTP2(t, p, harness.Windows{Initial: 1 << 30, MaxFrame: 16384, Connection: 1 << 30}), p}
}

// wantLast checks that the connection serves another request, if the kernel can
// follow a KeyUpdate, and that it ends with GOAWAY and close_notify otherwise.
func (h openedHTTP2) wantLast(t testing.TB, small harness.File) {
	t.Helper()
	if !harness.Rekeys(t) {
		h.WantGoAway()
		h.peer.WantEnd(t)
		return
	}
	h.WantFile(h.Get("/small"), small)
	h.Wait("the state", func() bool {
		if h.GoAway != nil {
			t.Errorf("the server has sent %v", h.GoAway)
		}
		return true
	})
	h.Close()
}

// If a client of HTTP/2 asks for a KeyUpdate that the kernel can't follow, it is
// told to go away, and what is under way is completed.
func TestKeyUpdateHTTP2(t *testing.T) {
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	f := c.Root.AddFile(t, "f", harness.Huge)
	small := c.Root.AddFile(t, "small", 1000)
	c.Start(t, harness.OffloadSite("all"))
	t.Run("during a download", func(t *testing.T) {
		h := openHTTP2(t, c)
		s := h.Get("/f")
		h.Begun(s, 1)
		c.WhileStopped(t, func() { h.peer.Update(t, harness.OpenSSL.UpdateBoth) })
		h.WantFile(s, f)
		h.wantLast(t, small)
	})
	t.Run("between streams", func(t *testing.T) {
		h := openHTTP2(t, c)
		h.WantFile(h.Get("/small"), small)
		h.peer.Update(t, harness.OpenSSL.UpdateBoth)
		h.wantLast(t, small)
	})
}
