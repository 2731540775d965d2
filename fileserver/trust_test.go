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
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// An alteredConn has what is written to it go another way.
type alteredConn struct {
	net.Conn
	to io.Writer
}

func (c alteredConn) Write(p []byte) (int, error) { return c.to.Write(p) }

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// What a listener wrapper may make of the writes that pass it, and all of it would
// be right but for the placeholder.
var alterations = []struct {
	name  string
	alter func(net.Conn) io.Writer
}{
	{"copies", func(c net.Conn) io.Writer {
		return writerFunc(func(p []byte) (int, error) { return c.Write(bytes.Clone(p)) })
	}},
	{"cuts", func(c net.Conn) io.Writer {
		return writerFunc(func(p []byte) (n int, err error) {
			for n < len(p) && err == nil {
				var m int
				m, err = c.Write(p[n:min(n+5000, len(p))])
				n += m
			}
			return n, err
		})
	}},
	{"adds", func(c net.Conn) io.Writer {
		b := bufio.NewWriterSize(c, 2*maxPart)
		return writerFunc(func(p []byte) (int, error) {
			_, _ = b.Write(p[:len(p)/2])
			_, _ = b.Write(p[len(p)/2:])
			return len(p), b.Flush()
		})
	}},
	{"writes later", func(c net.Conn) io.Writer {
		later := make(chan []byte, 1000)
		go func() {
			for p := range later {
				if _, err := c.Write(p); err != nil {
					return
				}
			}
		}()
		return writerFunc(func(p []byte) (int, error) {
			later <- bytes.Clone(p)
			return len(p), nil
		})
	}},
}

// Where something between net/http and the connection alters what is written, not a
// byte of a placeholder gets out. The first response fails, once it is told of, and
// from then on bodies are copied.
func TestAlteredWrites(t *testing.T) {
	testutil.RequireKernelTLS(t, ktls.Probe)
	const n = 3_000_000
	name, body := randomFile(t, n)
	for _, tt := range alterations {
		for _, maxChunk := range []int{0, 256 << 10, 1 << 20, -1} {
			t.Run(fmt.Sprintf("%s, parts of %d", tt.name, maxChunk), func(t *testing.T) {
				restoreTrust(t)
				idle := time.Minute
				if maxChunk < 0 {
					idle = 0
				}
				outer := func(inner net.Listener) net.Listener {
					altered := func(c net.Conn) net.Conn { return alteredConn{c, tt.alter(c)} }
					return testutil.WrappingListener{Listener: hiding(inner), Wrap: altered}
				}
				all := &ktls.Options{OffloadAll: true}
				s := newWrappedSite(t, maxChunk, idle, all, outer, func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/small" {
						_, _ = io.WriteString(w, "small")
						return
					}
					http.ServeFile(w, r, name)
				})
				// The first write offloads the connection. The second comes when that
				// is done.
				for range 2 {
					response, err := s.Get(s.url + "/small")
					testutil.Must(t, err)
					got, err := io.ReadAll(response.Body)
					response.Body.Close()
					if testutil.Must(t, err); string(got) != "small" {
						t.Errorf("got %q", got)
					}
					<-s.handled
				}
				for len(s.reports) > 0 {
					<-s.reports
				}
				// The header may not have got out. A client would send a GET again.
				if response, err := s.Post(s.url, "", nil); err == nil {
					got, err := io.ReadAll(response.Body)
					response.Body.Close()
					if err == nil {
						t.Error("the first response is whole")
					}
					if !bytes.HasPrefix(body, got) {
						t.Errorf("of %d bytes some are not the file's", len(got))
					}
				}
				<-s.handled
				select {
				case <-s.distrusted:
				default:
					t.Fatal("nobody is told")
				}
				if reason := <-s.reports; reason != ReasonNone {
					t.Errorf("first reason %q", reason)
				}
				s.sent.Store(0)
				for range 2 {
					_, got, err := s.get(t)
					testutil.WantError(t, err, nil)
					testutil.SameBody(t, got, body)
					if reason := <-s.reports; reason != ReasonPathUnknown {
						t.Errorf("reason %q, want %q", reason, ReasonPathUnknown)
					}
				}
				if sent := s.sent.Load(); sent > 0 {
					t.Errorf("%d bytes by sendfile", sent)
				}
				if len(s.distrusted) > 0 {
					t.Error("told again")
				}
			})
		}
	}
}

// A failure that is the client's, the network's or the server's own doing is no
// reason for distrust.
func TestFailuresAreNoDistrust(t *testing.T) {
	testutil.RequireKernelTLS(t, ktls.Probe)
	name, body := randomFile(t, 32<<20)
	var before func(w http.ResponseWriter, r *http.Request)
	serve := func(w http.ResponseWriter, r *http.Request) {
		f, err := os.Open(name)
		testutil.Must(t, err)
		defer f.Close()
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		before(w, r)
		for range 2 { // a handler may go on after an error
			_, _ = io.CopyN(w, f, int64(len(body)))
			_, _ = f.Seek(0, io.SeekStart)
		}
	}
	type request = *http.Request
	nothing := func(http.ResponseWriter, request) {}
	reads := func(c *tls.Conn) { _, _ = io.Copy(io.Discard, c) }
	stalls := func(*tls.Conn) {}
	for _, tt := range []struct {
		name   string
		before func(w http.ResponseWriter, r request) // the file is copied
		client func(c *tls.Conn)
	}{
		{"the client closes", nothing, func(c *tls.Conn) {
			_, _ = io.ReadFull(c, make([]byte, 1000))
			c.Close()
		}},
		{"the client resets", nothing, func(c *tls.Conn) {
			_, _ = io.ReadFull(c, make([]byte, 1000))
			_ = c.NetConn().(*net.TCPConn).SetLinger(0)
			c.NetConn().Close()
		}},
		{"the client had closed", func(_ http.ResponseWriter, r request) { <-r.Context().Done() }, func(c *tls.Conn) { c.Close() }},
		{"a deadline passes", func(_ http.ResponseWriter, r request) {
			_ = connOf(r).SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		}, stalls},
		{"a deadline had passed", func(_ http.ResponseWriter, r request) {
			_ = connOf(r).SetWriteDeadline(time.Unix(1, 0))
		}, stalls},
		{"the server closes", func(_ http.ResponseWriter, r request) {
			time.AfterFunc(200*time.Millisecond, func() { connOf(r).Close() })
		}, stalls},
		{"the server had closed", func(_ http.ResponseWriter, r request) { connOf(r).Close() }, reads},
		{"the file is truncated", func(http.ResponseWriter, request) {
			time.AfterFunc(20*time.Millisecond, func() { _ = os.Truncate(name, 1<<20) })
		}, reads},
		{"more than is declared", func(w http.ResponseWriter, _ request) { w.Header().Set("Content-Length", "200000") }, reads},
		{"a status without a body", func(w http.ResponseWriter, _ request) { w.WriteHeader(http.StatusNotModified) }, reads},
		{"switching protocols", func(w http.ResponseWriter, _ request) { w.WriteHeader(http.StatusSwitchingProtocols) }, reads},
	} {
		for _, idle := range []time.Duration{0, 2 * time.Second} {
			t.Run(fmt.Sprintf("%s, idle timeouts %v", tt.name, idle), func(t *testing.T) {
				restoreTrust(t)
				testutil.Must(t, os.WriteFile(name, body, 0o600))
				before = tt.before
				s := newSite(t, 0, idle, serve)
				conn := s.dial(t)
				_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
				testutil.Must(t, err)
				go tt.client(conn)
				select {
				case <-s.handled:
				case <-time.After(time.Minute):
					t.Fatal("the handler doesn't return")
				}
				if len(s.distrusted) > 0 || http1Trust.lost.Load() {
					t.Error("distrusted")
				}
			})
		}
	}
}

// When a protocol is distrusted, responses under way go on by copying.
func TestDistrustedMeanwhile(t *testing.T) {
	testutil.RequireKernelTLS(t, ktls.Probe)
	const length = 32 << 20
	name, body := randomFile(t, length)
	for _, idle := range []time.Duration{0, time.Minute} {
		t.Run(fmt.Sprintf("idle timeouts %v", idle), func(t *testing.T) {
			restoreTrust(t)
			s := newSite(t, 0, idle, func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, name) })
			response, err := s.Get(s.url)
			testutil.Must(t, err)
			defer response.Body.Close()
			// With this a part has gone out whole, and the most is still to come.
			first := make([]byte, 4*maxPart)
			_, err = io.ReadFull(response.Body, first)
			testutil.Must(t, err)
			http1Trust.lost.Store(true)
			rest, err := io.ReadAll(response.Body)
			got := append(first, rest...)
			<-s.handled
			testutil.WantError(t, err, nil)
			testutil.SameBody(t, got, body)
			if sent := s.sent.Load(); sent == 0 || sent > length/2 {
				t.Errorf("%d bytes by sendfile", sent)
			}
			if reason := <-s.reports; reason != ReasonNone || len(s.distrusted) > 0 {
				t.Errorf("reason %q", reason)
			}
		})
	}
}

// A fault has the bodies of its protocol copied, if it is of that kind.
func TestDistrustFaults(t *testing.T) {
	for _, tt := range []struct {
		fault        Fault
		http1, http2 bool
	}{
		{Fault{"HTTP/1.1", writesAltered, true}, true, false},
		{Fault{"HTTP/2", noStream, true}, false, true},
		{Fault{"HTTP/1.1", noMore, false}, false, false},
	} {
		restoreTrust(t)
		http1Trust.lost.Store(false)
		http2Trust.lost.Store(false)
		distrustFaults([]Fault{tt.fault})
		if http1, http2 := http1Trust.lost.Load(), http2Trust.lost.Load(); http1 != tt.http1 || http2 != tt.http2 {
			t.Errorf("%v: HTTP/1.1 %v, HTTP/2 %v", tt.fault, http1, http2)
		}
	}
}
