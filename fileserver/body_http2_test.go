package fileserver

import (
	"bytes"
	"crypto/sha256"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil/caddytest"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// However a body is written, the client gets what the same handler gives it on a
// connection that is not ours.
func TestHTTP2Writes(t *testing.T) {
	testutil.RequireKernelTLS(t, ktls.Probe)
	name, body := randomFile(t, 100_000)
	copyFile := func(w http.ResponseWriter) {
		f, err := os.Open(name)
		testutil.Must(t, err)
		defer f.Close()
		_, err = io.Copy(w, f)
		testutil.Must(t, err)
	}
	length := func(w http.ResponseWriter, n int) { w.Header().Set("Content-Length", strconv.Itoa(n)) }
	write := func(w http.ResponseWriter, p []byte) {
		n, err := w.Write(p)
		if n != len(p) {
			t.Errorf("%d bytes written of %d, %v", n, len(p), err)
		}
	}
	for _, tt := range []struct {
		name  string
		serve func(w http.ResponseWriter)
		want  string
		typ   string
	}{
		{"a tail without a length", func(w http.ResponseWriter) { copyFile(w); write(w, []byte("tail")) }, string(body) + "tail", "application/octet-stream"},
		{"a string without a length", func(w http.ResponseWriter) { copyFile(w); _, _ = io.WriteString(w, "tail") }, string(body) + "tail", "application/octet-stream"},
		{"a reader without a length", func(w http.ResponseWriter) {
			copyFile(w)
			_, _ = io.Copy(w, strings.NewReader("tail"))
			copyFile(w)
		}, string(body) + "tail" + string(body), "application/octet-stream"},
		{"the type in two pieces", func(w http.ResponseWriter) {
			length(w, 20_000)
			write(w, []byte("<!D"))
			write(w, []byte("OCTYPE html>"))
			write(w, bytes.Repeat([]byte(" "), 20_000-15))
		}, "<!DOCTYPE html>" + strings.Repeat(" ", 20_000-15), "text/html; charset=utf-8"},
		{"nothing first", func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "x/y")
			length(w, len(body))
			write(w, nil)
			if unwrap(w).(*writer).http2.taken {
				t.Error("a stream is taken over on which nothing has been sent")
			}
			write(w, body)
		}, string(body), "x/y"},
		{"small pieces", func(w http.ResponseWriter) {
			length(w, len(body))
			for rest := body; len(rest) > 0; {
				n := min(len(rest), 77)
				write(w, rest[:n])
				rest = rest[n:]
			}
		}, string(body), "application/octet-stream"},
		{"flushed pieces", func(w http.ResponseWriter) {
			length(w, len(body))
			for rest := body; len(rest) > 0; {
				n := min(len(rest), 7777)
				write(w, rest[:n])
				testutil.Must(t, http.NewResponseController(w).Flush())
				rest = rest[n:]
			}
		}, string(body), "application/octet-stream"},
		{"more than the length", func(w http.ResponseWriter) {
			length(w, 50_000)
			write(w, body[:50_000])
			if n, err := w.Write([]byte("x")); n != 0 || err == nil {
				t.Errorf("a byte too much: %d, %v", n, err)
			}
		}, string(body[:50_000]), "application/octet-stream"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, logged := newHTTP2Site(t, func(w http.ResponseWriter, _ *http.Request) { tt.serve(w) })
			defer s.CloseIdleConnections()
			for range 3 {
				response, got, err := s.get(t)
				if err != nil || string(got) != tt.want {
					t.Errorf("%d bytes, %v; want %d", len(got), err, len(tt.want))
				}
				if typ := response.Header.Get("Content-Type"); typ != tt.typ {
					t.Errorf("type %q, want %q", typ, tt.typ)
				}
				if n := <-logged; n != len(got) {
					t.Errorf("%d bytes would be logged, of %d", n, len(got))
				}
			}
		})
	}
}

// What Caddy logs is what the body has, also if the server writes filler.
func TestHTTP2LoggedOnDefaultWindows(t *testing.T) {
	testutil.RequireKernelTLS(t, ktls.Probe)
	name, body := randomFile(t, 1_000_000)
	s, logged := newHTTP2Site(t, func(w http.ResponseWriter, _ *http.Request) {
		f, err := os.Open(name)
		testutil.Must(t, err)
		defer f.Close()
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = io.Copy(w, f)
	})
	transport := s.Client.Transport.(*http.Transport)
	transport.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerConnection: 65_535, MaxReceiveBufferPerStream: 65_535}
	defer s.CloseIdleConnections()
	_, got, err := s.get(t)
	if err != nil || !bytes.Equal(got, body) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if n := <-logged; n != len(body) {
		t.Errorf("%d bytes would be logged, of %d", n, len(body))
	}
}

// A body that an error route writes, when our handler has returned, has no timer of ours
// that would outlive the request.
func TestHTTP2BodyAfterDone(t *testing.T) {
	testutil.RequireKernelTLS(t, ktls.Probe)
	body := bytes.Repeat([]byte("x"), 100_000)
	s, logged := newHTTP2Site(t, func(w http.ResponseWriter, r *http.Request) {
		own := unwrap(w).(*writer)
		idle := caddytest.IdleWriter(own, 0, 50*time.Millisecond)
		idle.ClearBetweenWrites = true
		defer idle.HandlerDone()
		own.http2.deadline.giveBack()
		idle.Header().Set("Content-Length", strconv.Itoa(len(body)))
		idle.WriteHeader(http.StatusNotFound)
		_, err := idle.Write(body)
		testutil.Must(t, err)
		if !own.http2.taken || own.http2.deadline.own {
			t.Errorf("taken over: %v, own deadline: %v", own.http2.taken, own.http2.deadline.own)
		}
	})
	defer s.CloseIdleConnections()
	_, got, err := s.get(t)
	if err != nil || !bytes.Equal(got, body) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	<-logged
	time.Sleep(100 * time.Millisecond) // a timer would end the process now
}

// A pushed response stays with Go's server, and says so.
func TestPushed(t *testing.T) {
	testutil.RequireKernelTLS(t, ktls.Probe)
	name, body := randomFile(t, 300_000)
	s, _ := newHTTP2Site(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			if err := w.(http.Pusher).Push("/pushed", nil); err != nil {
				t.Error(err)
			}
		}
		http.ServeFile(w, r, name)
	})
	framer := s.askHTTP2(t, 1<<30)
	testutil.Must(t, framer.WriteWindowUpdate(0, 1<<30))
	bodies := map[uint32][]byte{}
	for ended := 0; ended < 2; {
		frame, err := framer.ReadFrame()
		testutil.Must(t, err)
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

// sendTwice serves a file, and then a part of it again.
func sendTwice(t testing.TB, name string, before func(w http.ResponseWriter)) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		before(w)
		f, err := os.Open(name)
		testutil.Must(t, err)
		defer f.Close()
		if _, err := io.Copy(w, f); err != nil {
			t.Error(err)
		}
		_, err = f.Seek(1000, io.SeekStart)
		testutil.Must(t, err)
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
