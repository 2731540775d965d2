package fileserver

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/net/http2"
)

func TestProtocolCheck(t *testing.T) {
	preface := http2.ClientPreface
	for _, tt := range []struct {
		name  string
		http2 bool
		reads []string
		want  bool // of the last read
	}{
		{"http/1.1 request", false, []string{"GET / HTTP/1.1\r\n"}, true},
		{"http/1.1 method like the preface", false, []string{"PRI", " /x HTTP/1.1\r\n"}, true},
		{"http/1.1 with preface", false, []string{preface}, false},
		{"http/1.1 with preface in parts", false, []string{preface[:3], preface[3:20], preface[20:]}, false},
		{"http/1.1, preface later", false, []string{"X", preface}, true},
		{"h2 with preface", true, []string{preface}, true},
		{"h2 with preface in parts", true, []string{preface[:23], preface[23:] + "more", preface, "GET"}, true},
		{"h2 without preface", true, []string{"GET / HTTP/1.1\r\n"}, false},
		{"h2, wrong at the end", true, []string{preface[:23], "x"}, false},
		{"nothing", true, []string{""}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			check := protocolCheck{http2: tt.http2}
			for i, b := range tt.reads {
				want := i < len(tt.reads)-1 || tt.want
				if got := check.accept([]byte(b)); got != want {
					t.Errorf("read %d: %v, want %v", i, got, want)
				}
			}
		})
	}
}

func TestSecureForHTTP2(t *testing.T) {
	for _, tt := range []struct {
		name           string
		version, suite uint16
		want           bool
	}{
		{"TLS 1.3", tls.VersionTLS13, tls.TLS_AES_128_GCM_SHA256, true},
		{"TLS 1.2 AEAD", tls.VersionTLS12, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, true},
		{"TLS 1.2 CBC", tls.VersionTLS12, tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA, false},
		{"TLS 1.2 RSA", tls.VersionTLS12, tls.TLS_RSA_WITH_AES_128_GCM_SHA256, false},
		{"TLS 1.1", tls.VersionTLS11, tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := secureForHTTP2(tls.ConnectionState{Version: tt.version, CipherSuite: tt.suite}); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestTimeouts(t *testing.T) {
	for _, tt := range []struct {
		name                  string
		timeouts              Timeouts
		handshake, readHeader time.Duration
	}{
		{"none", Timeouts{}, 0, 0},
		{"least", Timeouts{ReadHeader: 3, Read: 2, Write: 4}, 2, 3},
		{"disabled", Timeouts{ReadHeader: -1, Read: 0, Write: 4}, 4, -1},
		{"read stands in", Timeouts{Read: 5}, 5, 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.timeouts.handshake(); got != tt.handshake {
				t.Errorf("handshake %v, want %v", got, tt.handshake)
			}
			if got := tt.timeouts.readHeader(); got != tt.readHeader {
				t.Errorf("readHeader %v, want %v", got, tt.readHeader)
			}
		})
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
		{"idle timeouts", func(w http.ResponseWriter) http.ResponseWriter { return idleWriter(w, 0, time.Minute) }, true},
		{"log recorder", func(w http.ResponseWriter) http.ResponseWriter {
			return caddyhttp.NewResponseRecorder(w, nil, nil)
		}, true},
		{"buffering recorder", func(w http.ResponseWriter) http.ResponseWriter {
			return caddyhttp.NewResponseRecorder(w, new(bytes.Buffer), func(int, http.Header) bool { return true })
		}, false},
		{"unknown", func(w http.ResponseWriter) http.ResponseWriter { return &hijacker{w} }, false},
		{"unknown below the idle timeouts", func(w http.ResponseWriter) http.ResponseWriter {
			return idleWriter(&hijacker{w}, 0, time.Minute)
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

// Whatever net/http makes of the placeholder, it must be known for one.
func TestIsPlaceholder(t *testing.T) {
	for _, tt := range []struct {
		name string
		p    []byte
		want bool
	}{
		{"whole", placeholder[:], true},
		{"beginning", placeholder[:5000], true},
		{"middle", placeholder[100:][:5000], true},
		{"end", placeholder[len(placeholder)-1:], true},
		{"nothing of it", placeholder[:0], false},
		{"other", make([]byte, len(placeholder)), false},
		{"nil", nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := isPlaceholder(tt.p); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestContentLength(t *testing.T) {
	for _, tt := range []struct {
		name   string
		values []string
		want   int64
		ok     bool
	}{
		{"none", nil, 0, false},
		{"zero", []string{"0"}, 0, true},
		{"large", []string{"5000000000"}, 5_000_000_000, true},
		{"negative", []string{"-1"}, -1, false},
		{"no number", []string{"x"}, 0, false},
		{"two", []string{"1", "1"}, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := contentLength(http.Header{"Content-Length": tt.values})
			if ok != tt.ok || ok && got != tt.want {
				t.Errorf("got %d, %v", got, ok)
			}
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
