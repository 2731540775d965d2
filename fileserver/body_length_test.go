package fileserver

import (
	"bytes"
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

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil/caddytest"
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

// A handler copies a file that has grown beyond its Content-Length. As without us the
// declared length arrives, the handler is told, and the connection ends in order.
// Where net/http leaves out the end, since the write that has it exceeds the length,
// we don't.
func TestGrownFile(t *testing.T) {
	testutil.RequireKernelTLS(t, ktls.Probe)
	const alert = 21
	name, body := randomFile(t, 1_000_000)
	for _, idle := range []bool{true, false} {
		for _, length := range []int{131_072, 200_000, 262_144, 262_145, 300_000} {
			for _, stock := range []bool{true, false} {
				t.Run(fmt.Sprintf("idle timeouts %v, length %d, stock %v", idle, length, stock), func(t *testing.T) {
					restoreTrust(t)
					config, httpClient := testutil.TLSConfig()
					config.MaxVersion = tls.VersionTLS12 // alerts are seen from outside
					inner := testutil.Listen(t)
					copied, sent := make(chan error, 1), make(chan int64, 100)
					own := &Server{TLS: ktls.NewServer(config, nil), Sent: func(n int64) { sent <- n }}
					ln := tls.NewListener(inner, config)
					if !stock {
						ln = hiding(own.Listener(ln))
					}
					server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						if idle {
							idle := caddytest.IdleWriter(w, 0, time.Minute)
							r = r.WithContext(caddyhttp.ContextWithIdleTimeouts(r.Context(), nil, idle))
							w = idle
						}
						if !stock {
							w, _ = Wrap(w, r, &Options{MinSize: 10_000})
						}
						f, err := os.Open(name)
						testutil.Must(t, err)
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
					testutil.Must(t, err)
					recorded := &testutil.Recording{Conn: raw}
					conn := tls.Client(recorded, testutil.ClientConfig(httpClient))
					defer conn.Close()
					testutil.Must(t, conn.SetDeadline(time.Now().Add(time.Minute)))
					_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
					testutil.Must(t, err)
					answer, err := io.ReadAll(conn)
					if err != nil {
						t.Errorf("the connection ends with %v", err)
					}
					_, got, _ := bytes.Cut(answer, []byte("\r\n\r\n"))
					want := length
					if stock {
						want = length / (32 << 10) * (32 << 10)
					}
					testutil.SameBody(t, got, body[:want])
					if err := <-copied; !errors.Is(err, http.ErrContentLength) {
						t.Errorf("the handler gets %v", err)
					}
					if typ := lastRecord(recorded.Got.Bytes()); typ != alert {
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

// Over HTTP/2 the declared length arrives too, the handler is told, and nothing is
// distrusted.
func TestGrownFileHTTP2(t *testing.T) {
	testutil.RequireKernelTLS(t, ktls.Probe)
	restoreTrust(t)
	name, body := randomFile(t, 1_000_000)
	for _, length := range []int{131_072, 200_000, 262_145} {
		copied := make(chan error, 2)
		s, _ := newHTTP2Site(t, func(w http.ResponseWriter, _ *http.Request) {
			f, err := os.Open(name)
			testutil.Must(t, err)
			defer f.Close()
			w.Header().Set("Content-Length", fmt.Sprint(length))
			_, err = io.Copy(w, f)
			copied <- err
		})
		for range 2 {
			_, got, err := s.get(t)
			testutil.WantError(t, err, nil)
			testutil.SameBody(t, got, body[:length])
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

// A handler that does not keep its own promise must not be helped: the client
// has to see that the body is not whole, and no byte that isn't the file's.
func TestBrokenPromises(t *testing.T) {
	testutil.RequireKernelTLS(t, ktls.Probe)
	const n = 1_000_000
	for _, tt := range []struct {
		name  string
		serve func(w http.ResponseWriter, f *os.File) error
	}{
		{"stops early", func(w http.ResponseWriter, f *os.File) error {
			_, err := io.CopyN(w, f, n/2)
			return err
		}},
		{"panics", func(w http.ResponseWriter, f *os.File) error {
			_, _ = io.CopyN(w, f, n/2)
			panic(http.ErrAbortHandler)
		}},
		{"file is truncated before", func(w http.ResponseWriter, f *os.File) error {
			if err := f.Truncate(n / 2); err != nil {
				return err
			}
			_, err := io.CopyN(w, f, n)
			return err
		}},
		{"file is truncated meanwhile", func(w http.ResponseWriter, f *os.File) error {
			_, err := io.CopyN(w, truncating{f}, n)
			return err
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			name, body := randomFile(t, n)
			s := newSite(t, 0, time.Minute, func(w http.ResponseWriter, r *http.Request) {
				f, err := os.OpenFile(name, os.O_RDWR, 0)
				if err != nil {
					t.Error(err)
					return
				}
				defer f.Close()
				w.Header().Set("Content-Length", fmt.Sprint(n))
				_ = tt.serve(w, f)
			})
			_, got, err := s.get(t)
			if err == nil || len(got) >= n {
				t.Errorf("the client got %d bytes, %v", len(got), err)
			}
			if !bytes.HasPrefix(body, got) {
				t.Error("the client got bytes that are not the file's")
			}
		})
	}
}

// truncating is a reader that is no file, so that what follows is copied.
type truncating struct{ f *os.File }

func (t truncating) Read(p []byte) (int, error) {
	n, err := t.f.Read(p)
	_ = t.f.Truncate(500_000)
	return n, err
}

// A file is longer than its Content-Length, and loses meanwhile what exceeds it. The
// response is whole, as nothing is missing that was promised. If more is lost, it is
// cut off.
func TestSurplusLost(t *testing.T) {
	testutil.RequireKernelTLS(t, ktls.Probe)
	const length = 10 << 20
	for _, http2 := range []bool{false, true} {
		for _, idle := range []time.Duration{0, time.Minute} {
			if http2 && idle > 0 {
				continue // its site has none
			}
			for _, left := range []int64{length, length - 1} {
				t.Run(fmt.Sprintf("HTTP/2 %v, idle timeouts %v, %d left of %d", http2, idle, left, length), func(t *testing.T) {
					restoreTrust(t)
					name, body := randomFile(t, 11<<20)
					handler := func(w http.ResponseWriter, _ *http.Request) {
						f, err := os.Open(name)
						testutil.Must(t, err)
						defer f.Close()
						w.Header().Set("Content-Length", fmt.Sprint(length))
						_, _ = io.Copy(w, f)
					}
					var s *site
					if http2 {
						s, _ = newHTTP2Site(t, handler)
					} else {
						s = newSite(t, 0, idle, handler)
					}
					response, err := s.Get(s.url)
					testutil.Must(t, err)
					defer response.Body.Close()
					// The client has read nothing of the body, of which the most is
					// still to be sent.
					testutil.Must(t, os.Truncate(name, left))
					got, err := io.ReadAll(response.Body)
					<-s.handled
					if whole := err == nil && sha256.Sum256(got) == sha256.Sum256(body[:length]); whole != (left == length) {
						t.Errorf("got %d bytes, %v", len(got), err)
					}
					if reason := <-s.reports; reason != ReasonNone || s.sent.Load() == 0 || len(s.distrusted) > 0 {
						t.Errorf("reason %q, %d bytes by sendfile", reason, s.sent.Load())
					}
				})
			}
		}
	}
}
