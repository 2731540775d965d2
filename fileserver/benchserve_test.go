package fileserver

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil/caddytest"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// BenchmarkServe is a request and its response over loopback. Its client is a
// part of it, which does no more than it has to. On a kernel with TLS the large
// body, a file, goes out by sendfile.
func BenchmarkServe(b *testing.B) {
	for _, proto := range []string{"http1", "h2"} {
		for _, size := range []int{1 << 10, 1 << 20} {
			for _, with := range []string{"stock", "ktls"} {
				b.Run(fmt.Sprintf("proto=%s/size=%d/with=%s", proto, size, with), func(b *testing.B) {
					s := newBenchSite(b, proto, size, with == "ktls")
					client := s.dial(b, proto)
					client.get(b, size)
					b.SetBytes(int64(size))
					b.ReportAllocs()
					for b.Loop() {
						client.get(b, size)
					}
					_, err := ktls.Probe()
					if want := err == nil && with == "ktls" && size >= DefaultMinSize; s.sent.Load() > 0 != want {
						b.Errorf("%d bytes by sendfile", s.sent.Load())
					}
				})
			}
		}
	}
}

// A benchSite serves one body: a file if it is a large one.
type benchSite struct {
	addr   string
	client *tls.Config
	sent   atomic.Int64 // by sendfile
}

func newBenchSite(b *testing.B, proto string, size int, own bool) *benchSite {
	config, client := testutil.TLSConfig()
	if proto == "h2" {
		config.NextProtos = []string{"h2"}
	}
	inner := testutil.Listen(b)
	s := &benchSite{addr: inner.Addr().String()}
	s.client = testutil.ClientConfig(client, config.NextProtos...)
	ln := tls.NewListener(inner, config)
	if own {
		ln = (&Server{TLS: ktls.NewServer(config, nil), Sent: func(n int64) { s.sent.Add(n) }}).Listener(ln)
	}
	b.Cleanup(func() { ln.Close() })
	server := &http.Server{Handler: s.handler(b, size, own)}
	if proto == "http1" {
		b.Cleanup(func() { server.Close() })
		go func() { _ = server.Serve(ln) }()
		return s
	}
	go serveHTTP2(ln, server)
	return s
}

// handler has the writers around it that Caddy's server has.
func (s *benchSite) handler(b *testing.B, size int, own bool) http.HandlerFunc {
	name, body := randomFile(b, size)
	options := &Options{MinSize: DefaultMinSize}
	return func(below http.ResponseWriter, r *http.Request) {
		idle := caddytest.IdleWriter(below, 0, time.Minute)
		r = r.WithContext(caddyhttp.ContextWithIdleTimeouts(r.Context(), nil, idle))
		w := http.ResponseWriter(idle)
		if own {
			w, _ = Wrap(w, r, options)
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", fmt.Sprint(size))
		w.WriteHeader(http.StatusOK) // as http.ServeContent does
		if size < DefaultMinSize {
			_, _ = w.Write(body)
			return
		}
		f, err := os.Open(name)
		if err != nil {
			b.Error(err)
			return
		}
		defer f.Close()
		if _, err := io.Copy(w, f); err != nil {
			b.Error(err)
		}
	}
}

// A benchClient asks for the body, over and over.
type benchClient interface {
	get(b *testing.B, size int)
}

func (s *benchSite) dial(b *testing.B, proto string) benchClient {
	conn, err := tls.Dial("tcp", s.addr, s.client)
	testutil.Must(b, err)
	b.Cleanup(func() { conn.Close() })
	if proto == "http1" {
		return &plainClient{conn: conn, buf: make([]byte, 64<<10)}
	}
	return newFrameClient(b, conn)
}

// A plainClient speaks HTTP/1.1. It parses the first response only: the others
// are as long.
type plainClient struct {
	conn   net.Conn
	buf    []byte
	length int // of a response
}

var benchRequest = []byte("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n")

func (c *plainClient) get(b *testing.B, size int) {
	if _, err := c.conn.Write(benchRequest); err != nil {
		b.Fatal(err)
	}
	if c.length == 0 {
		var whole bytes.Buffer
		response, err := http.ReadResponse(bufio.NewReader(io.TeeReader(c.conn, &whole)), nil)
		testutil.Must(b, err)
		if n, err := io.Copy(io.Discard, response.Body); n != int64(size) || err != nil {
			b.Fatalf("%d bytes, %v", n, err)
		}
		c.length = whole.Len()
		return
	}
	for left := c.length; left > 0; {
		n, err := c.conn.Read(c.buf[:min(left, len(c.buf))])
		if err != nil {
			b.Fatal(err)
		}
		left -= n
	}
}

// A frameClient speaks HTTP/2.
type frameClient struct {
	framer *http2.Framer
	block  []byte // the header of a request
	stream uint32
	taken  uint32 // of the connection's window
}

const benchWindow = 1 << 30

func newFrameClient(b *testing.B, conn net.Conn) *frameClient {
	w := bufio.NewWriter(conn)
	c := &frameClient{framer: http2.NewFramer(writeFlusher{w}, bufio.NewReaderSize(conn, 64<<10)), block: requestBlock(b), stream: 1}
	c.framer.SetReuseFrames()
	_, err := io.WriteString(w, http2.ClientPreface)
	testutil.Must(b, err)
	testutil.Must(b, c.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: benchWindow}))
	testutil.Must(b, c.framer.WriteWindowUpdate(0, benchWindow))
	return c
}

// A writeFlusher writes each frame at once.
type writeFlusher struct{ *bufio.Writer }

func (w writeFlusher) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	if err == nil {
		err = w.Flush()
	}
	return n, err
}

func (c *frameClient) get(b *testing.B, size int) {
	n, err := c.response()
	if n != size || err != nil {
		b.Fatalf("%d bytes, %v", n, err)
	}
	c.stream += 2
	if c.taken += uint32(size); c.taken < benchWindow/2 {
		return
	}
	testutil.Must(b, c.framer.WriteWindowUpdate(0, c.taken))
	c.taken = 0
}

// response asks, and returns the length of the body.
func (c *frameClient) response() (n int, err error) {
	err = c.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: c.stream, BlockFragment: c.block, EndStream: true, EndHeaders: true,
	})
	for err == nil {
		var f http2.Frame
		f, err = c.framer.ReadFrame()
		switch f := f.(type) {
		case *http2.DataFrame:
			n += len(f.Data())
			if f.StreamEnded() {
				return n, nil
			}
		case *http2.HeadersFrame:
			if f.StreamEnded() {
				return n, nil
			}
		case *http2.SettingsFrame:
			if !f.IsAck() {
				err = c.framer.WriteSettingsAck()
			}
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			err = fmt.Errorf("%v", f)
		}
	}
	return n, err
}
