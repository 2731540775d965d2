package fileserver

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil/caddytest"
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
				testutil.Must(t, err)
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

type hijacker struct{ http.ResponseWriter }

func (h hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, nil }
func (h *hijacker) Unwrap() http.ResponseWriter                 { return h.ResponseWriter }

// bottomOf is asked within a real server: the type of its writer is private.
func TestBottomOf(t *testing.T) {
	for _, tt := range []struct {
		name string
		wrap func(http.ResponseWriter) http.ResponseWriter
		want bool
	}{
		{"net/http", func(w http.ResponseWriter) http.ResponseWriter { return w }, true},
		{"idle timeouts", func(w http.ResponseWriter) http.ResponseWriter { return caddytest.IdleWriter(w, 0, time.Minute) }, true},
		{"log recorder", func(w http.ResponseWriter) http.ResponseWriter {
			return caddyhttp.NewResponseRecorder(w, nil, nil)
		}, true},
		{"buffering recorder", func(w http.ResponseWriter) http.ResponseWriter {
			return caddyhttp.NewResponseRecorder(w, new(bytes.Buffer), func(int, http.Header) bool { return true })
		}, false},
		{"unknown", func(w http.ResponseWriter) http.ResponseWriter { return &hijacker{w} }, false},
		{"unknown below the idle timeouts", func(w http.ResponseWriter) http.ResponseWriter {
			return caddytest.IdleWriter(&hijacker{w}, 0, time.Minute)
		}, false},
		{"not a pointer", func(w http.ResponseWriter) http.ResponseWriter { return hijacker{w} }, false},
		{"not net/http", func(http.ResponseWriter) http.ResponseWriter { return httptest.NewRecorder() }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got bool
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				got = bottomOf(tt.wrap(w)) != nil
			}))
			defer server.Close()
			response, err := http.Get(server.URL)
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			if got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}
