package ktls_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// http.ServeFile sends files by sendfile(2), over HTTPS.
func ExampleNewListener() {
	folder, err := os.MkdirTemp("", "ktls")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(folder)
	name := filepath.Join(folder, "file.txt")
	if err := os.WriteFile(name, []byte(strings.Repeat("kernel TLS\n", 100_000)), 0o600); err != nil {
		log.Fatal(err)
	}

	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	certificate, client := exampleCertificate()
	config := &tls.Config{Certificates: []tls.Certificate{certificate}}
	decided := make(chan bool, 1)
	ln := ktls.NewListener(inner, config, &ktls.Options{
		Decided: func(_ *ktls.Conn, d ktls.Decision) {
			// ktls.Offloaded, or why not.
			decided <- d.State == ktls.Offloaded || d.State == ktls.KernelUnsupported
		},
	})
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, name)
	})}
	go func() { _ = server.Serve(ln) }() // not ServeTLS

	response, err := client.Get("https://" + inner.Addr().String() + "/")
	if err != nil {
		log.Fatal(err)
	}
	defer response.Body.Close()
	n, err := io.Copy(io.Discard, response.Body)
	fmt.Println(response.Status, n, err)
	fmt.Println("offloaded, if the kernel can do it:", <-decided)

	// Before the process exits, what was written has to get to the clients.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	fmt.Println(server.Shutdown(ctx), ln.Wait(ctx))
	// Output:
	// 200 OK 1100000 <nil>
	// offloaded, if the kernel can do it: true
	// <nil> <nil>
}

// exampleCertificate returns a certificate and a client that trusts it.
func exampleCertificate() (tls.Certificate, *http.Client) {
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	return server.TLS.Certificates[0], server.Client()
}
