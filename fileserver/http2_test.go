package fileserver

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"unsafe"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// Writers that an HTTP/2 server might have one day.
type (
	standIn      struct{ rws *standInState }
	standInState struct {
		stream     *standInStream
		wroteBytes int64
	}
	standInStream struct{ id uint32 }

	widerID struct {
		noWriter
		rws *struct {
			stream     *struct{ id uint64 }
			wroteBytes int64
		}
	}
	uncounted struct {
		noWriter
		rws *struct{ stream *standInStream }
	}
	renamed struct {
		noWriter
		state *standInState
	}
	embedded struct {
		noWriter
		rws standInState
	}
	notAStruct struct {
		noWriter
		rws *int
	}
)

func (standIn) Header() http.Header         { return nil }
func (standIn) Write(p []byte) (int, error) { return len(p), nil }
func (standIn) WriteHeader(int)             {}

type noWriter = http.ResponseWriter

func TestStreamOf(t *testing.T) {
	at := func(id uint32, written int64) *standInState { return &standInState{&standInStream{id}, written} }
	n := 7
	for _, tt := range []struct {
		name   string
		writer http.ResponseWriter
		want   uint32
	}{
		{"as expected", &standIn{at(7, 9)}, 7},
		{"an even number", &standIn{at(8, 9)}, 0},
		{"number 0", &standIn{at(0, 9)}, 0},
		{"a negative length", &standIn{at(7, -1)}, 0},
		{"no stream", &standIn{&standInState{}}, 0},
		{"no state", &standIn{}, 0},
		{"no pointer", standIn{at(7, 9)}, 0},
		{"a wider number", &widerID{rws: &struct {
			stream     *struct{ id uint64 }
			wroteBytes int64
		}{&struct{ id uint64 }{7}, 9}}, 0},
		{"no length", &uncounted{rws: &struct{ stream *standInStream }{&standInStream{7}}}, 0},
		{"renamed", &renamed{state: at(7, 9)}, 0},
		{"embedded", &embedded{rws: *at(7, 9)}, 0},
		{"not a struct", &notAStruct{rws: &n}, 0},
		{"nothing", nil, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id, written, ok := streamOf(tt.writer).position()
			if ok != (tt.want > 0) || ok && (id != tt.want || written != 9) {
				t.Errorf("got %d, %d, %v; want %d", id, written, ok, tt.want)
			}
		})
	}
	// Servers take the state away when the handler has returned.
	returned := &standIn{at(7, 9)}
	s := streamOf(returned)
	returned.rws = nil
	if _, _, ok := s.position(); ok {
		t.Error("a stream without a handler is known")
	}
	// A writer of the right shape, but of a type that isn't known.
	if bottomOf(&standIn{at(7, 9)}) != nil {
		t.Error("an unknown writer was taken for the bottom")
	}
	http2Trust.lost.Store(true)
	defer http2Trust.lost.Store(false)
	if _, _, ok := streamOf(&standIn{at(7, 9)}).position(); ok {
		t.Error("a stream is known after all")
	}
}

// The streams of golang.org/x/net/http2 and of net/http's own copy are known by
// their numbers, and what was written to them.
func TestStreamOfServers(t *testing.T) {
	for _, name := range []string{"golang.org/x/net", "net/http"} {
		t.Run(name, func(t *testing.T) {
			var ids []uint32
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, "buffered")
				id, written, ok := streamOf(bottomOf(w)).position()
				if !ok || written != 8 {
					t.Errorf("%T: stream known: %v, %d bytes written", w, ok, written)
				}
				ids = append(ids, id)
			}))
			server.EnableHTTP2 = true
			server.TLS = &tls.Config{NextProtos: []string{"h2"}}
			if name != "net/http" {
				if err := http2.ConfigureServer(server.Config, nil); err != nil { //nolint:staticcheck // as Caddy does
					t.Fatal(err)
				}
			}
			server.StartTLS()
			defer server.Close()
			for range 3 {
				resp, err := server.Client().Get(server.URL)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
			}
			if len(ids) != 3 || ids[0] != 1 || ids[1] != 3 || ids[2] != 5 {
				t.Errorf("streams %v, want 1, 3, 5", ids)
			}
		})
	}
}

// newHTTP2Site is newSite for HTTP/2, whatever the kernel can do. What Caddy would
// log as the body's length is sent to logged.
func newHTTP2Site(t testing.TB, handler http.HandlerFunc) (s *site, logged chan int) {
	t.Helper()
	config, client := testConfig()
	config.NextProtos = []string{"h2"}
	client.Transport = &http.Transport{TLSClientConfig: client.Transport.(*http.Transport).TLSClientConfig.Clone(), ForceAttemptHTTP2: true}
	logged = make(chan int, 100)
	s = &site{
		Client: client, reports: make(chan Reason, 100), failed: make(chan error, 100),
		distrusted: make(chan string, 100), handled: make(chan struct{}, 100),
	}
	options := &Options{
		MinSize: 10_000,
		Sending: func(_ *http.Request, reason Reason) { s.reports <- reason },
		Failed:  func(_ *http.Request, err error) { s.failed <- err },
	}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { inner.Close() })
	s.url = "https://" + inner.Addr().String()
	own := &Server{
		TLS:        ktls.NewServer(config, nil),
		Sent:       func(n int64) { s.sent.Add(n) },
		Distrusted: func(protocol string) { s.distrusted <- protocol },
	}
	served := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { s.handled <- struct{}{} }()
		recorder := caddyhttp.NewResponseRecorder(w, nil, nil)
		inserted, _ := Insert(recorder, r, options)
		handler(inserted, r)
		logged <- recorder.Size()
	})
	go func() {
		ln := own.Listener(tls.NewListener(inner, config))
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				// Caddy has it done before it lets a server have the connection.
				_, _ = conn.Read(nil)
				new(http2.Server).ServeConn(conn, &http2.ServeConnOpts{Handler: served}) //nolint:staticcheck // it takes any connection
			}()
		}
	}()
	return s, logged
}

// A server whose count of a body's bytes means something else than it does today has
// one response fail. No byte of its placeholder gets out, the switch is thrown, and it
// is told.
func TestShiftedPosition(t *testing.T) {
	requireKernelTLS(t)
	restoreTrust(t)
	name, body := randomFile(t, 1_000_000)
	s, _ := newHTTP2Site(t, func(w http.ResponseWriter, _ *http.Request) {
		f, err := os.Open(name)
		must(t, err)
		defer f.Close()
		count := streamOf(bottomOf(unwrap(w).(*writer).ResponseWriter)).written
		*(*int64)(unsafe.Pointer(count.UnsafeAddr()))++
		_, _ = io.Copy(w, f)
	})
	defer s.CloseIdleConnections()
	if response, err := s.Get(s.url); err == nil {
		got, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err == nil || !bytes.HasPrefix(body, got) {
			t.Errorf("%d bytes, %v, of the file: %v", len(got), err, bytes.HasPrefix(body, got))
		}
	}
	<-s.handled
	if reason := <-s.reports; reason != ReasonNone {
		t.Errorf("first reason %q", reason)
	}
	for range 2 {
		_, got, err := s.get(t)
		if err != nil || sha256.Sum256(got) != sha256.Sum256(body) {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
		if reason := <-s.reports; reason != ReasonStreamUnknown {
			t.Errorf("reason %q", reason)
		}
	}
	if len(s.distrusted) != 1 || <-s.distrusted != "HTTP/2" || s.sent.Load() > 0 || http1Trust.lost.Load() {
		t.Errorf("%d bytes by sendfile, HTTP/1.1 distrusted: %v", s.sent.Load(), http1Trust.lost.Load())
	}
}

// sendTwice serves a file, and then a part of it again.
func sendTwice(t testing.TB, name string, before func(w http.ResponseWriter)) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		before(w)
		f, err := os.Open(name)
		must(t, err)
		defer f.Close()
		if _, err := io.Copy(w, f); err != nil {
			t.Error(err)
		}
		_, err = f.Seek(1000, io.SeekStart)
		must(t, err)
		if _, err := io.CopyN(w, f, 100_000); err != nil {
			t.Error(err)
		}
	}
}

// A stream that isn't known has its files copied, and one that is known gets the
// same bytes.
func TestHTTP2Bodies(t *testing.T) {
	name, body := randomFile(t, 1_000_000)
	want := append(bytes.Clone(body), body[1000:101_000]...)
	for _, tt := range []struct {
		name    string
		unknown bool
		typ     string
		before  func(w http.ResponseWriter)
		prefix  string
	}{
		{"known", false, "application/octet-stream", func(http.ResponseWriter) {}, ""},
		{"typed", false, "x/y", func(w http.ResponseWriter) { w.Header().Set("Content-Type", "x/y") }, ""},
		{"typed too late", false, "application/octet-stream", func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusOK)
			w.Header().Set("Content-Type", "x/y")
		}, ""},
		{"behind other bytes", false, "application/octet-stream", func(w http.ResponseWriter) { _, _ = io.WriteString(w, "text") }, "text"},
		{"behind a flush", false, "", func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
		}, ""},
		{"unknown", true, "application/octet-stream", func(http.ResponseWriter) {}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			http2Trust.lost.Store(tt.unknown)
			defer http2Trust.lost.Store(false)
			s, logged := newHTTP2Site(t, sendTwice(t, name, tt.before))
			for range 2 {
				response, got, err := s.get(t)
				if err != nil || !bytes.Equal(got, append([]byte(tt.prefix), want...)) {
					t.Fatalf("%d bytes, %v; want %d", len(got), err, len(want))
				}
				if n := <-logged; n != len(got) {
					t.Errorf("%d bytes would be logged, of %d", n, len(got))
				}
				if typ := response.Header.Get("Content-Type"); typ != tt.typ {
					t.Errorf("Content-Type %q, want %q", typ, tt.typ)
				}
				if reason := <-s.reports; (reason == ReasonStreamUnknown) != tt.unknown || reason == ReasonNone != (s.sent.Load() > 0) {
					t.Errorf("%q, and %d bytes by sendfile", reason, s.sent.Load())
				}
			}
			s.CloseIdleConnections()
		})
	}
}
