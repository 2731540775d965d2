package fileserver

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
	"github.com/caddy-ktls/caddy-ktls/ktls"
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

// A handshake has the context that net/http gives to one of a *tls.Conn: that of the
// server's hooks, with the server and the local address.
func TestHandshakeContext(t *testing.T) {
	type key struct{}
	seen := make(chan [3]any, 1)
	config, client := testutil.TLSConfig()
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		ctx := hello.Context()
		seen <- [3]any{ctx.Value(key{}), ctx.Value(http.ServerContextKey), ctx.Value(http.LocalAddrContextKey)}
		return nil, nil
	}
	inner := testutil.Listen(t)
	own := &Server{TLS: ktls.NewServer(config, nil)}
	server := &http.Server{
		Handler: http.NotFoundHandler(),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return ConnContext(context.WithValue(ctx, key{}, "a hook's"), c)
		},
	}
	go func() { _ = server.Serve(hiding(own.Listener(tls.NewListener(inner, config)))) }()
	defer server.Close()
	response, err := client.Get("https://" + inner.Addr().String())
	testutil.Must(t, err)
	_ = response.Body.Close()
	got := <-seen
	address, _ := got[2].(net.Addr)
	if got[0] != "a hook's" || got[1] != server || address == nil || address.String() != inner.Addr().String() {
		t.Errorf("the context has %v", got)
	}
}

// An http.Server that asks for the state before it reads gets it after the
// handshake, and a client that doesn't speak TLS is answered all the same.
func TestStateBeforeRead(t *testing.T) {
	config, client := testutil.TLSConfig()
	inner := testutil.Listen(t)
	failed := make(chan string, 10)
	own := &Server{TLS: ktls.NewServer(config, nil), HandshakeFailed: func(message string) { failed <- message }}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.TLS.HandshakeComplete, " ", r.TLS.ServerName)
	})}
	go func() { _ = server.Serve(own.Listener(tls.NewListener(inner, config))) }()
	defer server.Close()

	response, err := client.Get("https://" + inner.Addr().String() + "/")
	testutil.Must(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	testutil.Must(t, err)
	if want := "true " + response.TLS.ServerName; string(body) != want {
		t.Errorf("the handler sees %q, want %q", body, want)
	}

	raw, err := net.Dial("tcp", inner.Addr().String())
	testutil.Must(t, err)
	defer raw.Close()
	_, err = io.WriteString(raw, "GET / HTTP/1.1\r\n\r\n")
	testutil.Must(t, err)
	answer, err := io.ReadAll(raw)
	testutil.Must(t, err)
	if !strings.HasPrefix(string(answer), "HTTP/1.0 400 ") {
		t.Errorf("answer %q", answer)
	}
	if message := <-failed; !strings.Contains(message, "client sent an HTTP request to an HTTPS server") || len(failed) > 0 {
		t.Errorf("logged %q, and %d more", message, len(failed))
	}
}
