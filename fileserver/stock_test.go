package fileserver

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// lastRecord returns the type of the last TLS record in b.
func lastRecord(b []byte) (typ byte) {
	for len(b) >= 5 {
		n := 5 + int(b[3])<<8 + int(b[4])
		typ, b = b[0], b[min(n, len(b)):]
	}
	return typ
}

// recordingConn keeps what was read.
type recordingConn struct {
	net.Conn
	read bytes.Buffer
}

func (c *recordingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read.Write(p[:n])
	return n, err
}

// A handler copies a file that has grown beyond its Content-Length. As without us the
// declared length arrives, the handler is told, and the connection ends in order.
// Where net/http leaves out the end, since the write that has it exceeds the length,
// we don't.
func TestGrownFile(t *testing.T) {
	requireKernelTLS(t)
	const alert = 21
	name, body := randomFile(t, 1_000_000)
	for _, idle := range []bool{true, false} {
		for _, length := range []int{131_072, 200_000, 262_144, 262_145, 300_000} {
			for _, stock := range []bool{true, false} {
				t.Run(fmt.Sprintf("idle timeouts %v, length %d, stock %v", idle, length, stock), func(t *testing.T) {
					restoreTrust(t)
					config, httpClient := testConfig()
					config.MaxVersion = tls.VersionTLS12 // alerts are seen from outside
					inner, err := net.Listen("tcp", "127.0.0.1:0")
					must(t, err)
					copied, sent := make(chan error, 1), make(chan int64, 100)
					own := &Server{TLS: ktls.NewServer(config, nil), Sent: func(n int64) { sent <- n }}
					ln := tls.NewListener(inner, config)
					if !stock {
						ln = hidingListener{own.Listener(ln)}
					}
					server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						if idle {
							idle := idleWriter(w, 0, time.Minute)
							r = r.WithContext(caddyhttp.ContextWithIdleTimeouts(r.Context(), nil, idle))
							w = idle
						}
						if !stock {
							w, _ = Wrap(w, r, &Options{MinSize: 10_000})
						}
						f, err := os.Open(name)
						must(t, err)
						defer f.Close()
						w.Header().Set("Content-Length", fmt.Sprint(length))
						w.Header().Set("Content-Type", "x/y")
						w.WriteHeader(http.StatusOK)
						_, err = io.Copy(w, f)
						copied <- err
					})}
					go func() { _ = server.Serve(ln) }()
					defer server.Close()

					raw, err := net.Dial("tcp", inner.Addr().String())
					must(t, err)
					recorded := &recordingConn{Conn: raw}
					clientConfig := httpClient.Transport.(*http.Transport).TLSClientConfig.Clone()
					clientConfig.ServerName = "example.com"
					conn := tls.Client(recorded, clientConfig)
					defer conn.Close()
					must(t, conn.SetDeadline(time.Now().Add(time.Minute)))
					_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
					must(t, err)
					answer, err := io.ReadAll(conn)
					if err != nil {
						t.Errorf("the connection ends with %v", err)
					}
					_, got, _ := bytes.Cut(answer, []byte("\r\n\r\n"))
					want := length
					if stock {
						want = length / (32 << 10) * (32 << 10)
					}
					if sha256.Sum256(got) != sha256.Sum256(body[:want]) {
						t.Errorf("got %d bytes, want %d", len(got), want)
					}
					if err := <-copied; !errors.Is(err, http.ErrContentLength) {
						t.Errorf("the handler gets %v", err)
					}
					if typ := lastRecord(recorded.read.Bytes()); typ != alert {
						t.Errorf("the last record has type %d", typ)
					}
					if (len(sent) > 0) == stock {
						t.Errorf("%d times sent by sendfile", len(sent))
					}
				})
			}
		}
	}
}

// A pushed response stays with Go's server, and says so.
func TestPushed(t *testing.T) {
	requireKernelTLS(t)
	name, body := randomFile(t, 300_000)
	s, _ := newHTTP2Site(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			if err := w.(http.Pusher).Push("/pushed", nil); err != nil {
				t.Error(err)
			}
		}
		http.ServeFile(w, r, name)
	})
	config := s.Transport.(*http.Transport).TLSClientConfig.Clone()
	config.ServerName, config.NextProtos = "example.com", []string{"h2"}
	conn, err := tls.Dial("tcp", s.url[len("https://"):], config)
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	_, err = io.WriteString(conn, http2.ClientPreface)
	must(t, err)
	framer := http2.NewFramer(conn, conn)
	must(t, framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30}))
	must(t, framer.WriteWindowUpdate(0, 1<<30))
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "example.com"}, {":path", "/"}} {
		must(t, encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}))
	}
	must(t, framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true}))
	bodies := map[uint32][]byte{}
	for ended := 0; ended < 2; {
		frame, err := framer.ReadFrame()
		must(t, err)
		if data, ok := frame.(*http2.DataFrame); ok {
			bodies[data.StreamID] = append(bodies[data.StreamID], data.Data()...)
			if data.StreamEnded() {
				ended++
			}
		}
	}
	for _, id := range []uint32{1, 2} {
		if sha256.Sum256(bodies[id]) != sha256.Sum256(body) {
			t.Errorf("stream %d: %d bytes", id, len(bodies[id]))
		}
	}
	reasons := map[Reason]int{<-s.reports: 1}
	reasons[<-s.reports]++
	if reasons[ReasonNone] != 1 || reasons[ReasonPushed] != 1 {
		t.Error(reasons)
	}
	if sent := s.sent.Load(); sent == 0 || sent > int64(len(body)) {
		t.Errorf("%d bytes by sendfile", sent)
	}
}

// Without idle timeouts handlers find in our writer what net/http's has, and over
// HTTP/2 nothing that they would rely on in vain.
func TestWriterHasWhatStockHas(t *testing.T) {
	off := `"read_idle_timeout": -1, "write_idle_timeout": -1,`
	for _, stock := range []bool{true, false} {
		for _, http2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("stock %v, HTTP/2 %v", stock, http2), func(t *testing.T) {
				type interfaces struct{ flusher, stringWriter, readerFrom, hijacker, pusher bool }
				got := make(chan interfaces, 1)
				goOn := make(chan bool)
				url := withCaddy(t, off, func(w http.ResponseWriter, r *http.Request) error {
					if !stock {
						w, _ = Wrap(w, r, &Options{MinSize: DefaultMinSize})
					}
					var has interfaces
					_, has.readerFrom = w.(io.ReaderFrom)
					_, has.hijacker = w.(http.Hijacker)
					_, has.pusher = w.(http.Pusher)
					f, flusher := w.(http.Flusher)
					s, stringWriter := w.(io.StringWriter)
					has.flusher, has.stringWriter = flusher, stringWriter
					got <- has
					if flusher && stringWriter {
						_, _ = s.WriteString("some")
						f.Flush()
						<-goOn
						_, _ = s.WriteString(" text")
					}
					return nil
				})
				response, err := chainClient(t, http2).Get(url)
				must(t, err)
				defer response.Body.Close()
				has := <-got
				if !has.flusher || !has.stringWriter || !http2 && (!has.readerFrom || !has.hijacker) || http2 && (!has.pusher || has.hijacker) {
					t.Fatalf("%+v", has)
				}
				b := make([]byte, 4)
				if _, err := io.ReadFull(response.Body, b); err != nil || string(b) != "some" {
					t.Errorf("%q, %v", b, err)
				}
				close(goOn)
				if b, err := io.ReadAll(response.Body); err != nil || string(b) != " text" {
					t.Errorf("%q, %v", b, err)
				}
			})
		}
	}
}

// A client whose body is too large gets the answer before it has sent all, without
// idle timeouts, where it would with stock Caddy.
func TestTooLarge(t *testing.T) {
	off := `"read_idle_timeout": -1, "write_idle_timeout": -1,`
	for _, stock := range []bool{true, false} {
		t.Run(fmt.Sprintf("stock %v", stock), func(t *testing.T) {
			url := withCaddy(t, off, func(w http.ResponseWriter, r *http.Request) error {
				if !stock {
					w, _ = Wrap(w, r, &Options{MinSize: DefaultMinSize})
				}
				_, err := io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, 1000))
				var tooLarge *http.MaxBytesError
				if !errors.As(err, &tooLarge) {
					t.Errorf("error %v", err)
				}
				w.WriteHeader(http.StatusRequestEntityTooLarge)
				return nil
			})
			conn, err := new(net.Dialer).DialContext(context.Background(), "tcp", url[len("http://"):])
			must(t, err)
			defer conn.Close()
			must(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
			_, err = fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n%2000d\r\n", 0)
			must(t, err)
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			must(t, err)
			if response.StatusCode != http.StatusRequestEntityTooLarge || !response.Close {
				t.Errorf("%s, closes: %v", response.Status, response.Close)
			}
		})
	}
}

// Over HTTP/2 the declared length arrives too, the handler is told, and nothing is
// distrusted.
func TestGrownFileHTTP2(t *testing.T) {
	requireKernelTLS(t)
	restoreTrust(t)
	name, body := randomFile(t, 1_000_000)
	for _, length := range []int{131_072, 200_000, 262_145} {
		copied := make(chan error, 2)
		s, _ := newHTTP2Site(t, func(w http.ResponseWriter, _ *http.Request) {
			f, err := os.Open(name)
			must(t, err)
			defer f.Close()
			w.Header().Set("Content-Length", fmt.Sprint(length))
			_, err = io.Copy(w, f)
			copied <- err
		})
		for range 2 {
			_, got, err := s.get(t)
			if err != nil || sha256.Sum256(got) != sha256.Sum256(body[:length]) {
				t.Errorf("got %d bytes of %d, %v", len(got), length, err)
			}
			if err := <-copied; err == nil {
				t.Error("the handler gets no error")
			}
			if reason := <-s.reports; reason != ReasonNone || s.sent.Load() == 0 || len(s.distrusted) > 0 {
				t.Errorf("reason %q, %d bytes by sendfile", reason, s.sent.Load())
			}
		}
		s.CloseIdleConnections()
	}
}
