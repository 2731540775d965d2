package fileserver

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil/caddytest"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// benchPart is what Caddy hands on of a body at once.
const benchPart = 64 << 10

// A discarder is net/http's writer over a connection that sends nothing.
type discarder struct {
	*testutil.Discarder
	sender *http1Sender // if not nil, what is written is the file that is announced to it
}

func newDiscarder() *discarder { return &discarder{Discarder: testutil.NewDiscarder()} }

func (d *discarder) Write(p []byte) (int, error) {
	if s := d.sender; s != nil {
		if n := s.announced.part.Len; n > 0 { // it has been sent
			s.announced, s.sent, s.unclaimed = announcement{}, filerange.Sent{Sendfile: n}, n
		}
		s.unclaimed -= int64(len(p))
	}
	return len(p), nil
}

// benchConn returns a connection without a client.
func benchConn(b *testing.B) *conn {
	raw, other := net.Pipe()
	b.Cleanup(func() { raw.Close(); other.Close() })
	return newConn(ktls.NewServer(new(tls.Config), nil).Conn(raw), &listener{server: new(Server)})
}

// BenchmarkSmallResponse is a body below min_size, with the writers that Caddy
// has around it.
func BenchmarkSmallResponse(b *testing.B) {
	body := make([]byte, 1<<10)
	for _, timeouts := range []bool{true, false} {
		for _, with := range []string{"stock", "ktls"} {
			b.Run(fmt.Sprintf("timeouts=%v/with=%s", timeouts, with), func(b *testing.B) {
				bottom := newDiscarder()
				r, err := http.NewRequest(http.MethodGet, "/", nil)
				testutil.Must(b, err)
				ctx := context.WithValue(b.Context(), http.LocalAddrContextKey, benchConn(b).LocalAddr())
				idle := caddytest.IdleWriter(bottom, 0, time.Minute)
				below := idle.ResponseWriterWrapper
				top := http.ResponseWriter(bottom)
				if timeouts {
					ctx = caddyhttp.ContextWithIdleTimeouts(ctx, nil, idle)
					top = idle
				}
				r = r.WithContext(ctx)
				options := &Options{MinSize: DefaultMinSize}
				value := []string{"text/plain"}
				b.SetBytes(int64(len(body)))
				b.ReportAllocs()
				for b.Loop() {
					clear(bottom.Header())
					idle.ResponseWriterWrapper = below // as for a new request
					w := top
					if with == "ktls" {
						w, _ = Wrap(w, r, options)
					}
					w.Header()["Content-Type"] = value
					w.WriteHeader(http.StatusOK)
					if _, err := w.Write(body); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkReadFrom is a part of a large file over HTTP/1.1: stock reads it, ours
// announces it, to a connection that sends nothing.
func BenchmarkReadFrom(b *testing.B) {
	for _, with := range []string{"stock", "ktls"} {
		b.Run("with="+with, func(b *testing.B) {
			f := endlessFile(b)
			bottom := newDiscarder()
			var w io.ReaderFrom = bottom
			if with == "ktls" {
				c := benchConn(b)
				bottom.sender = &c.http1
				r, err := http.NewRequest(http.MethodGet, "/", nil)
				testutil.Must(b, err)
				own := &newResponse(bottom, r, c, &Options{MinSize: DefaultMinSize}).writer
				own.body.inParts, own.body.mode = true, sending
				own.body.header = header{noted: true, lengthKnown: true, length: 1 << 40}
				own.http1.started, own.http1.flushed = true, true
				w = own
			}
			limited := &io.LimitedReader{R: f}
			b.SetBytes(benchPart)
			b.ReportAllocs()
			for b.Loop() {
				limited.N = benchPart
				if n, err := w.ReadFrom(limited); n != benchPart || err != nil {
					b.Fatalf("%d bytes, %v", n, err)
				}
			}
		})
	}
}

// endlessFile returns a file whose length no benchmark reaches. It takes no room.
func endlessFile(b *testing.B) *os.File {
	f, err := os.Create(filepath.Join(b.TempDir(), "endless"))
	testutil.Must(b, err)
	b.Cleanup(func() { f.Close() })
	if err := f.Truncate(1 << 40); err != nil {
		b.Skip("the file system has no sparse files: ", err)
	}
	return f
}

// A benchListener accepts the same connection over and over.
type benchListener struct {
	net.Listener
	raw    net.Conn
	config *tls.Config
}

func (l benchListener) Accept() (net.Conn, error) { return tls.Server(l.raw, l.config), nil }

// BenchmarkAccept is what Caddy's listener makes of a TCP connection, before the
// handshake.
func BenchmarkAccept(b *testing.B) {
	config, _ := testutil.TLSConfig()
	raw := testutil.Listen(b)
	client, err := net.Dial("tcp", raw.Addr().String())
	testutil.Must(b, err)
	defer client.Close()
	accepted, err := raw.Accept()
	testutil.Must(b, err)
	defer accepted.Close()
	stock := benchListener{raw: accepted, config: config}
	for _, tt := range []struct {
		with string
		ln   net.Listener
	}{
		{"stock", stock},
		{"ktls", (&Server{TLS: ktls.NewServer(config, nil)}).Listener(stock)},
	} {
		b.Run("with="+tt.with, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := tt.ln.Accept(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
