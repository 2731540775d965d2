package fileserver

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-ktls/caddy-ktls/ktls"
)

func requireKernelTLS(t testing.TB) {
	t.Helper()
	if _, err := ktls.Probe(); err != nil {
		if os.Getenv("KTLS_REQUIRED") != "" {
			t.Fatal("kernel TLS is required:", err)
		}
		t.Skip(err)
	}
}

// idleWriter is what Caddy's server puts around net/http's writer.
func idleWriter(w http.ResponseWriter, maxChunk int, timeout time.Duration) *caddyhttp.IdleTimeoutWriter {
	return &caddyhttp.IdleTimeoutWriter{
		ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w},
		Ctrl:                  http.NewResponseController(w),
		Deadline:              caddyhttp.IdleDeadline{Start: time.Now(), Timeout: timeout},
		MaxChunk:              maxChunk,
		Logger:                zap.NewNop(),
	}
}

// smallListener gives connections a small send buffer: with a large one a client
// that reads slowly isn't seen to read for seconds.
type smallListener struct{ net.Listener }

func (l smallListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		err = conn.(*net.TCPConn).SetWriteBuffer(128 << 10)
	}
	return conn, err
}

// hidingListener hides all methods of a connection that net.Conn doesn't have,
// as Caddy does.
type hidingListener struct{ net.Listener }

func (l hidingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return struct{ net.Conn }{conn}, err
}

// A site is a server whose handler is behind Wrap.
type site struct {
	*http.Client
	url        string
	reports    chan Reason
	failed     chan error
	distrusted chan struct{}
	sent       atomic.Int64
	handled    chan struct{} // gets one for each request
}

// newSite serves handler as Caddy would, with idle timeouts of the given
// settings, or without if timeout is 0.
func newSite(t testing.TB, maxChunk int, timeout time.Duration, handler http.HandlerFunc) *site {
	t.Helper()
	return newWrappedSite(t, maxChunk, timeout, nil, func(inner net.Listener) net.Listener { return hidingListener{inner} }, handler)
}

// newWrappedSite is newSite with options, and another listener between the
// connections and net/http.
func newWrappedSite(t testing.TB, maxChunk int, timeout time.Duration, connections *ktls.Options,
	outer func(net.Listener) net.Listener, handler http.HandlerFunc,
) *site {
	t.Helper()
	s := &site{
		reports: make(chan Reason, 100), failed: make(chan error, 100),
		distrusted: make(chan struct{}, 100), handled: make(chan struct{}, 100),
	}
	options := &Options{
		MinSize: 10_000,
		Sending: func(_ *http.Request, reason Reason) { s.reports <- reason },
		Failed:  func(_ *http.Request, err error) { s.failed <- err },
	}
	config, client := testConfig()
	s.Client = client
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.url = "https://" + inner.Addr().String()
	own := &Server{
		TLS:        ktls.NewServer(config, connections),
		Sent:       func(n int64) { s.sent.Add(n) },
		Distrusted: func() { s.distrusted <- struct{}{} },
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { s.handled <- struct{}{} }()
		if timeout > 0 {
			idle := idleWriter(w, maxChunk, timeout)
			r = r.WithContext(caddyhttp.ContextWithIdleTimeouts(r.Context(), nil, idle))
			w = idle
		}
		w, _ = Wrap(w, r, options)
		w, _ = Wrap(w, r, options) // twice is as good as once
		handler(w, r)
	})}
	go func() { _ = server.Serve(outer(own.Listener(tls.NewListener(smallListener{inner}, config)))) }()
	t.Cleanup(func() {
		server.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := own.TLS.Wait(ctx); err != nil {
			t.Error("closing connections:", err)
		}
	})
	return s
}

// testConfig returns a configuration with a certificate, and a client that takes it.
func testConfig() (*tls.Config, *http.Client) {
	stock := httptest.NewTLSServer(http.NotFoundHandler())
	defer stock.Close()
	return &tls.Config{Certificates: stock.TLS.Certificates}, stock.Client()
}

func (s *site) get(t testing.TB) (*http.Response, []byte, error) {
	t.Helper()
	response, err := s.Get(s.url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	<-s.handled // which may be after the last byte has arrived
	return response, body, err
}

func randomFile(t testing.TB, n int) (string, []byte) {
	t.Helper()
	body := make([]byte, n)
	for i := range body {
		body[i] = byte(i*i>>3 ^ i>>11)
	}
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, body, 0o600); err != nil {
		t.Fatal(err)
	}
	return name, body
}

// Bodies of all lengths around those of Caddy's parts and net/http's buffer, one
// after the other on one connection.
func TestBodies(t *testing.T) {
	requireKernelTLS(t)
	const part = 16 << 10
	for _, idle := range []time.Duration{0, time.Minute} {
		for _, typed := range []bool{true, false} {
			t.Run(fmt.Sprintf("idle timeout %v, typed %v", idle, typed), func(t *testing.T) {
				var name string
				s := newSite(t, part, idle, func(w http.ResponseWriter, r *http.Request) {
					if typed {
						w.Header().Set("Content-Type", "application/octet-stream")
					}
					f, err := os.Open(name)
					if err != nil {
						t.Error(err)
						return
					}
					defer f.Close()
					info, _ := f.Stat()
					w.Header().Set("Content-Length", fmt.Sprint(info.Size()))
					n, err := io.Copy(w, io.LimitReader(f, info.Size()))
					if n != info.Size() || err != nil {
						t.Errorf("copied %d of %d, %v", n, info.Size(), err)
					}
				})
				for _, n := range []int{
					9_999, 10_000, part - 1, part, part + 1, part + 511, part + 513, part + 4095, part + 4096,
					part + 4097, 5*part - 1, 5 * part, 5*part + 1, 5*part + 4096, 5*part + 4097, 3_000_000,
				} {
					var body []byte
					name, body = randomFile(t, n)
					s.sent.Store(0)
					response, got, err := s.get(t)
					if err != nil || sha256.Sum256(got) != sha256.Sum256(body) || len(got) != n {
						t.Fatalf("%d bytes: got %d, %v", n, len(got), err)
					}
					if !typed && response.Header.Get("Content-Type") != http.DetectContentType(body) {
						t.Errorf("Content-Type %q", response.Header.Get("Content-Type"))
					}
					if n < 10_000 {
						continue
					}
					if reason := <-s.reports; reason != ReasonNone {
						t.Errorf("%d bytes: reason %q", n, reason)
					}
					// All but what is copied: for the Content-Type, the
					// end, and what moves the connection.
					least := n - sniffLen - httpBuffer
					if sent := int(s.sent.Load()); sent > n || sent < least {
						t.Errorf("%d bytes: sendfile sent %d", n, sent)
					}
				}
			})
		}
	}
}

// The lengths of Caddy's parts may be set, and be such that their ends are short.
func TestParts(t *testing.T) {
	requireKernelTLS(t)
	for _, part := range []int{1000, 4 << 10, 12 << 10, maxPart, maxPart + 4097, maxPart + 8<<10, 4 << 20} {
		t.Run(fmt.Sprint(part), func(t *testing.T) {
			name, body := randomFile(t, part+max(part/2, 2_000_000))
			s := newSite(t, part, time.Minute, func(w http.ResponseWriter, r *http.Request) {
				http.ServeFile(w, r, name)
			})
			for range 2 {
				s.sent.Store(0)
				_, got, err := s.get(t)
				if err != nil || !bytes.Equal(got, body) {
					t.Fatalf("got %d bytes of %d, %v", len(got), len(body), err)
				}
				want := part > httpBuffer
				if sent := s.sent.Load() > int64(len(body))/2; sent != want {
					t.Errorf("sendfile sent %d bytes of %d", s.sent.Load(), len(body))
				}
			}
		})
	}
}

// What a handler makes of the header when net/http has taken it has no effect.
func TestLateHeader(t *testing.T) {
	requireKernelTLS(t)
	const n, less = 300_000, 100_000
	name, body := randomFile(t, n)
	for _, tt := range []struct {
		name   string
		before func(w http.ResponseWriter)
		want   int
	}{
		{"length behind the status", func(w http.ResponseWriter) { w.WriteHeader(http.StatusOK) }, n},
		{"length behind a flush", func(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() }, n},
		{"length behind the body's first bytes", func(w http.ResponseWriter) { _, _ = w.Write(nil) }, n},
		{"greater length behind the status", func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", fmt.Sprint(less))
			w.WriteHeader(http.StatusOK)
		}, less},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t, 0, time.Minute, func(w http.ResponseWriter, r *http.Request) {
				f, err := os.Open(name)
				if err != nil {
					t.Error(err)
					return
				}
				defer f.Close()
				tt.before(w)
				w.Header().Set("Content-Length", fmt.Sprint(n))
				_, _ = io.Copy(w, f)
			})
			for range 2 {
				_, got, err := s.get(t)
				if err != nil || !bytes.Equal(got, body[:tt.want]) {
					t.Errorf("got %d bytes, %v, want %d", len(got), err, tt.want)
				}
			}
		})
	}
}

// A handler that does not keep its own promise must not be helped: the client
// has to see that the body is not whole, and no byte that isn't the file's.
func TestBrokenPromises(t *testing.T) {
	requireKernelTLS(t)
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

// A client that makes progress is never cut, one that stalls is: a part waits
// for its own bytes only, although much more goes ahead with it.
func TestIdleTimeout(t *testing.T) {
	requireKernelTLS(t)
	name, body := randomFile(t, 8<<20)
	serve := func(w http.ResponseWriter, r *http.Request) {
		f, err := os.Open(name)
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		_, _ = io.CopyN(w, f, int64(len(body)))
	}
	t.Run("slow", func(t *testing.T) {
		s := newSite(t, 0, 3*time.Second, serve)
		response, err := s.Get(s.url)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		hash := sha256.New()
		// Slower than the whole transfer may take with one deadline.
		for {
			_, err := io.CopyN(hash, response.Body, 512<<10)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(300 * time.Millisecond)
		}
		if want := sha256.Sum256(body); !bytes.Equal(hash.Sum(nil), want[:]) {
			t.Error("the body differs")
		}
		if s.sent.Load() < int64(len(body))/2 {
			t.Errorf("sendfile sent %d", s.sent.Load())
		}
	})
	t.Run("stalled", func(t *testing.T) {
		s := newSite(t, 0, time.Second, serve)
		response, err := s.Get(s.url)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		select {
		case err := <-s.failed:
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error(err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("the connection is not cut")
		}
		if n, err := io.Copy(io.Discard, response.Body); err == nil {
			t.Errorf("the client got %d bytes without an error", n)
		}
	})
}
