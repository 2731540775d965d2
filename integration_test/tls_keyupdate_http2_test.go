//go:build linux

package integration_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// An http2Client speaks HTTP/2 through a peer.
type http2Client struct {
	peer   *peer
	out    bytes.Buffer
	framer *http2.Framer
	stream uint32
}

func newHTTP2Client(t testing.TB, p *peer) *http2Client {
	h := &http2Client{peer: p, stream: 1}
	h.framer = http2.NewFramer(&h.out, p.stdout)
	h.framer.SetMaxReadFrameSize(1 << 20)
	h.out.WriteString(http2.ClientPreface)
	must(t, h.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1}))
	must(t, h.framer.WriteWindowUpdate(0, 1<<31-1-65535))
	h.flush(t)
	return h
}

func (h *http2Client) flush(t testing.TB) {
	t.Helper()
	h.peer.send(t, h.out.String())
	h.out.Reset()
}

// request begins a stream.
func (h *http2Client) request(t testing.TB, path string) {
	t.Helper()
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, field := range []hpack.HeaderField{
		{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "https"},
		{Name: ":authority", Value: h.peer.host}, {Name: ":path", Value: path},
	} {
		must(t, encoder.WriteField(field))
	}
	must(t, h.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: h.stream, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true,
	}))
	h.stream += 2
	h.flush(t)
}

// read reads frames until a stream has ended, or the connection. It tells of the
// first data that come.
func (h *http2Client) read(begun chan<- struct{}) (body digest, goAway, whole bool, err error) {
	d := newDigester()
	for {
		frame, err := h.framer.ReadFrame()
		if err != nil {
			return d.digest(), goAway, false, err
		}
		switch f := frame.(type) {
		case *http2.GoAwayFrame:
			goAway = f.ErrCode == http2.ErrCodeNo
		case *http2.DataFrame:
			_, _ = d.Write(f.Data())
			if begun != nil {
				close(begun)
				begun = nil
			}
			if f.StreamEnded() {
				return d.digest(), goAway, true, nil
			}
		}
	}
}

// If a client of HTTP/2 asks for a KeyUpdate that the kernel can't follow, it is
// told to go away, and what is under way is completed.
func TestKeyUpdateHTTP2(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", huge)
	small := c.addFile(t, "small", 1000)
	c.start(t, offloading("all"))
	connect := func(t *testing.T) *http2Client {
		p := c.connect(t, openssl, "localhost", suiteByID(tls.TLS_AES_128_GCM_SHA256), "-alpn", "h2")
		return newHTTP2Client(t, p)
	}
	t.Run("during a download", func(t *testing.T) {
		h := connect(t)
		begun, done := make(chan struct{}), make(chan struct{})
		var goAway bool
		h.request(t, "/f")
		go func() {
			defer close(done)
			body, gone, whole, err := h.read(begun)
			if goAway = gone; body != f.digest || !whole {
				t.Errorf("body %v, whole %v, %v; want %v", body, whole, err, f.digest)
			}
		}()
		<-begun
		c.signal(t, syscall.SIGSTOP)
		h.peer.update(t, openssl.updateBoth)
		c.signal(t, syscall.SIGCONT)
		<-done
		h.wantLast(t, small, goAway)
	})
	t.Run("between streams", func(t *testing.T) {
		h := connect(t)
		h.request(t, "/small")
		if body, _, whole, err := h.read(nil); body != small.digest || !whole {
			t.Errorf("body %v, whole %v, %v; want %v", body, whole, err, small.digest)
		}
		h.peer.update(t, openssl.updateBoth)
		h.wantLast(t, small, false)
	})
}

// wantLast checks that the connection serves another request, if the kernel can
// follow a KeyUpdate, and that it ends with GOAWAY, which may have come already,
// and close_notify otherwise.
func (h *http2Client) wantLast(t testing.TB, small file, goAway bool) {
	t.Helper()
	if !rekeys(t) {
		_, now, _, err := h.read(nil)
		if !errors.Is(err, io.EOF) || !goAway && !now {
			t.Errorf("the end was %v, GOAWAY: %v", err, goAway || now)
		}
		h.peer.ended(t)
		return
	}
	h.request(t, "/small")
	if body, now, whole, err := h.read(nil); body != small.digest || !whole || goAway || now {
		t.Errorf("body %v, whole %v, GOAWAY %v, %v; want %v", body, whole, goAway || now, err, small.digest)
	}
	_ = h.peer.stdin.Close()
}

// A client that has shaken hands before a reload, and sends its preface after it,
// is told to go away, so that the old configuration ends.
func TestPrefaceAfterReload(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	c.start(t, site+stock)
	config := c.tlsConfig(t)
	config.NextProtos = []string{http2.NextProtoTLS}
	config.MaxVersion = tls.VersionTLS12 // the server is ready first
	var conns []*tls.Conn
	for _, port := range []string{"PORT", "PORT2"} {
		conn, err := tls.Dial("tcp", "127.0.0.1:"+c.getenv(port), config)
		must(t, err)
		defer conn.Close()
		must(t, conn.SetDeadline(time.Now().Add(patience)))
		conns = append(conns, conn)
	}
	c.reload(t, offloading("all")+stock)
	for i, conn := range conns {
		_, err := io.WriteString(conn, http2.ClientPreface)
		must(t, err)
		framer := http2.NewFramer(conn, conn)
		must(t, framer.WriteSettings())
		for goAway := false; !goAway; {
			frame, err := framer.ReadFrame()
			if err != nil {
				t.Fatalf("server %d ends without GOAWAY: %v", i, err)
			}
			_, goAway = frame.(*http2.GoAwayFrame)
		}
	}
	fault(t, "Server life", "A reload between a client's handshake and its HTTP/2 preface", "POST /load",
		"GOAWAY, as from stock Caddy")
}
