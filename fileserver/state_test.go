package fileserver

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// An http.Server that asks for the state before it reads gets it after the
// handshake, and a client that doesn't speak TLS is answered all the same.
func TestStateBeforeRead(t *testing.T) {
	config, client := testConfig()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	failed := make(chan string, 10)
	own := &Server{TLS: ktls.NewServer(config, nil), HandshakeFailed: func(message string) { failed <- message }}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.TLS.HandshakeComplete, " ", r.TLS.ServerName)
	})}
	go func() { _ = server.Serve(own.Listener(tls.NewListener(inner, config))) }()
	defer server.Close()

	response, err := client.Get("https://" + inner.Addr().String() + "/")
	must(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	must(t, err)
	if want := "true " + response.TLS.ServerName; string(body) != want {
		t.Errorf("the handler sees %q, want %q", body, want)
	}

	raw, err := net.Dial("tcp", inner.Addr().String())
	must(t, err)
	defer raw.Close()
	_, err = io.WriteString(raw, "GET / HTTP/1.1\r\n\r\n")
	must(t, err)
	answer, err := io.ReadAll(raw)
	must(t, err)
	if !strings.HasPrefix(string(answer), "HTTP/1.0 400 ") {
		t.Errorf("answer %q", answer)
	}
	if message := <-failed; !strings.Contains(message, "client sent an HTTP request to an HTTPS server") || len(failed) > 0 {
		t.Errorf("logged %q, and %d more", message, len(failed))
	}
}
