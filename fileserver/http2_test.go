package fileserver

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// Writers that an HTTP/2 server might have one day.
type (
	standIn       struct{ rws *standInState }
	standInState  struct{ stream *standInStream }
	standInStream struct{ id uint32 }

	widerID struct {
		noWriter
		rws *struct{ stream *struct{ id uint64 } }
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

func TestStreamID(t *testing.T) {
	at := func(id uint32) *standInState { return &standInState{&standInStream{id}} }
	n := 7
	for _, tt := range []struct {
		name   string
		writer http.ResponseWriter
		want   uint32
	}{
		{"as expected", &standIn{at(7)}, 7},
		{"number 0", &standIn{at(0)}, 0},
		{"no stream", &standIn{&standInState{}}, 0},
		{"no state", &standIn{}, 0},
		{"no pointer", standIn{at(7)}, 0},
		{"a wider number", &widerID{rws: &struct{ stream *struct{ id uint64 } }{&struct{ id uint64 }{7}}}, 0},
		{"renamed", &renamed{state: at(7)}, 0},
		{"embedded", &embedded{rws: *at(7)}, 0},
		{"not a struct", &notAStruct{rws: &n}, 0},
		{"nothing", nil, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := streamID(tt.writer); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
	// A writer of the right shape, but of a type that isn't known.
	if bottomOf(&standIn{at(7)}) != nil {
		t.Error("an unknown writer was taken for the bottom")
	}
}

// The streams of golang.org/x/net/http2 and of net/http's own copy are known by
// their numbers.
func TestStreamIDOfServers(t *testing.T) {
	for _, name := range []string{"golang.org/x/net", "net/http"} {
		t.Run(name, func(t *testing.T) {
			var ids []uint32
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, "buffered")
				ids = append(ids, streamID(bottomOf(w)))
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
		distrusted: make(chan struct{}, 100), handled: make(chan struct{}, 100),
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
		Distrusted: func() { s.distrusted <- struct{}{} },
	}
	served := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { s.handled <- struct{}{} }()
		recorder := caddyhttp.NewResponseRecorder(w, nil, nil)
		inserted, response := Wrap(recorder, r, options)
		defer response.Done()
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

// A deadline resets the stream of a client that grants nothing more, and no other. It
// has passed only when it is not set again.
func TestHTTP2Deadline(t *testing.T) {
	requireKernelTLS(t)
	name, body := randomFile(t, 16<<20) // more than the client grants
	ended := make(chan error, 10)
	s, _ := newHTTP2Site(t, func(w http.ResponseWriter, r *http.Request) {
		f, err := os.Open(name)
		must(t, err)
		defer f.Close()
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		control := http.NewResponseController(w)
		must(t, control.SetWriteDeadline(time.Now().Add(time.Hour)))
		_, err = io.CopyN(w, f, 1<<20)
		must(t, err)
		must(t, control.SetWriteDeadline(time.Now().Add(time.Millisecond)))
		must(t, control.SetWriteDeadline(time.Time{}))
		time.Sleep(10 * time.Millisecond)
		_, err = io.CopyN(w, f, 1<<20)
		must(t, err)
		if r.URL.Path == "/stalled" {
			must(t, control.SetWriteDeadline(time.Now().Add(100*time.Millisecond)))
		}
		_, err = io.Copy(w, f)
		ended <- err
	})
	defer s.CloseIdleConnections()
	stalled, err := s.Get(s.url + "/stalled")
	must(t, err)
	defer stalled.Body.Close()
	if err := <-ended; err == nil {
		t.Error("the handler of a stalled stream is told of no error")
	}
	if got, err := io.ReadAll(stalled.Body); err == nil || !bytes.HasPrefix(body, got) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	<-s.handled
	_, got, err := s.get(t)
	if err := cmp.Or(err, <-ended); err != nil || !bytes.Equal(got, body) {
		t.Errorf("then %d bytes, %v", len(got), err)
	}
}
