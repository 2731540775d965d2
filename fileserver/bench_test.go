package fileserver

import (
	"bytes"
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
	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// benchPart is what Caddy hands on of a body at once.
const benchPart = 64 << 10

// A discarder is net/http's writer, as far as it costs nothing. It reads what it
// is given through a buffer, as net/http does.
type discarder struct {
	header http.Header
	buf    []byte
	conn   *Conn // if not nil, what is written is the file that is announced to it
}

func newDiscarder() *discarder {
	return &discarder{header: make(http.Header), buf: make([]byte, 32<<10)}
}

func (d *discarder) Header() http.Header              { return d.header }
func (d *discarder) WriteHeader(int)                  {}
func (d *discarder) SetWriteDeadline(time.Time) error { return nil }
func (d *discarder) FlushError() error                { return nil }
func (d *discarder) ReadFrom(r io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, d.buf)
}

func (d *discarder) Write(p []byte) (int, error) {
	if c := d.conn; c != nil {
		if n := c.announcement.n; n > 0 { // it has been sent
			c.announcement, c.sent, c.unclaimed = announcement{}, n, n
		}
		c.unclaimed -= int64(len(p))
	}
	return len(p), nil
}

// benchConn returns a connection without a client.
func benchConn(b *testing.B) *Conn {
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
				must(b, err)
				ctx := context.WithValue(b.Context(), http.LocalAddrContextKey, benchConn(b).LocalAddr())
				idle := idleWriter(bottom, 0, time.Minute)
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
					clear(bottom.header)
					idle.ResponseWriterWrapper = below // as for a new request
					w := top
					if with == "ktls" {
						w, _ = Insert(w, r, options)
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
				bottom.conn = benchConn(b)
				r, err := http.NewRequest(http.MethodGet, "/", nil)
				must(b, err)
				own := newWriter(bottom, r, bottom.conn, &Options{MinSize: DefaultMinSize})
				own.above.ResponseWriter = own
				own.path, own.length, own.begun, own.flushed = sending, 1<<40, true, true
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
	must(b, err)
	b.Cleanup(func() { f.Close() })
	if err := f.Truncate(1 << 40); err != nil {
		b.Skip("the file system has no sparse files: ", err)
	}
	return f
}

// A sink is a frameSender that does nothing.
type sink struct{ n int }

func (s *sink) pass(p []byte) error { s.n += len(p); return nil }
func (s *sink) offloaded() bool     { return true }
func (s *sink) sendFile(lead []byte, _ ktls.File, _ int64, n int) (sentBy, error) {
	s.n += len(lead) + n
	return byKernel, nil
}
func (s *sink) insert([]byte) {}

// BenchmarkOutbound is what an HTTP/2 server writes at once: a small response, a
// large frame, and one in the place of which a file goes out.
func BenchmarkOutbound(b *testing.B) {
	written := func(write ...frame) []byte {
		return frames(func(f *http2.Framer) error {
			for _, w := range write {
				must(b, w(f))
			}
			return nil
		})
	}
	headers := func(f *http2.Framer) error {
		return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: make([]byte, 60), EndHeaders: true})
	}
	for _, tt := range []struct {
		name  string
		bytes []byte
	}{
		{"headers", written(headers)},
		{"small", written(headers, func(f *http2.Framer) error { return f.WriteData(1, true, make([]byte, 1<<10)) })},
		{"large", written(func(f *http2.Framer) error { return f.WriteData(1, false, make([]byte, patternLen)) })},
	} {
		for _, with := range []string{"stock", "ktls"} {
			b.Run(fmt.Sprintf("frames=%s/with=%s", tt.name, with), func(b *testing.B) {
				to := new(sink)
				write := to.pass
				if with == "ktls" {
					o := newOutbound(to)
					write = func(p []byte) error { return writeAll(o, p) }
				}
				b.SetBytes(int64(len(tt.bytes)))
				b.ReportAllocs()
				for b.Loop() {
					if err := write(tt.bytes); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
	b.Run("frames=file/with=ktls", func(b *testing.B) {
		f := endlessFile(b)
		o := newOutbound(new(sink))
		p := make([]byte, 0, frameHeaderLen+patternLen)
		b.SetBytes(patternLen)
		b.ReportAllocs()
		for at := int64(0); b.Loop(); at += patternLen {
			s, placeholder, err := o.announce(part{stream: 1, at: at, file: f, offset: at, n: patternLen})
			if err != nil {
				b.Fatal(err)
			}
			// The server copies it.
			p = append(frameHeader{length: patternLen, typ: http2.FrameData, stream: 1}.append(p[:0]), placeholder...)
			if err := writeAll(o, p); err != nil {
				b.Fatal(err)
			}
			if err := o.settle(1, s, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkInbound is a frame that an HTTP/2 server reads: its header, then its
// payload.
func BenchmarkInbound(b *testing.B) {
	for _, tt := range []struct {
		name  string
		write frame
	}{
		{"window", func(f *http2.Framer) error { return f.WriteWindowUpdate(1, 1) }},
		{"request", func(f *http2.Framer) error {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: make([]byte, 60), EndStream: true, EndHeaders: true})
		}},
		{"data", func(f *http2.Framer) error { return f.WriteData(1, false, make([]byte, 16384)) }},
	} {
		for _, with := range []string{"stock", "ktls"} {
			b.Run(fmt.Sprintf("frame=%s/with=%s", tt.name, with), func(b *testing.B) {
				var rest []byte
				read := func(p []byte) int {
					n := copy(p, rest)
					rest = rest[n:]
					return n
				}
				source := read
				if with == "ktls" {
					in := &inbound{preface: len(http2.ClientPreface), settled: true}
					read = func(p []byte) int { return followed(b, in, source, p) }
				}
				whole := frames(tt.write)
				p := make([]byte, len(whole))
				b.SetBytes(int64(len(whole)))
				b.ReportAllocs()
				for b.Loop() {
					rest = whole
					for _, part := range [][]byte{p[:frameHeaderLen], p[frameHeaderLen:]} {
						if n := read(part); n != len(part) {
							b.Fatalf("%d bytes of %d", n, len(part))
						}
					}
				}
				if !bytes.Equal(p, whole) {
					b.Error("another frame was read")
				}
			})
		}
	}
}

func noReset(uint32) error { return nil }

// followed reads as Conn does.
func followed(b *testing.B, in *inbound, source func([]byte) int, p []byte) int {
	for {
		if n := in.read(p); n > 0 {
			return n
		}
		n := source(p[:min(len(p), in.most())])
		n, err := in.add(p[:n], noReset)
		if err != nil {
			b.Fatal(err)
		}
		if n > 0 {
			return n
		}
	}
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
	config, _ := testConfig()
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	defer raw.Close()
	client, err := net.Dial("tcp", raw.Addr().String())
	must(b, err)
	defer client.Close()
	accepted, err := raw.Accept()
	must(b, err)
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
