package fileserver_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"

	"github.com/caddy-ktls/caddy-ktls/fileserver"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// An http.Server whose handler need not know that files go out by sendfile(2)
// where the kernel can do it.
func Example() {
	folder, err := os.MkdirTemp("", "fileserver")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(folder)
	if err := os.WriteFile(filepath.Join(folder, "file.bin"), make([]byte, 100_000), 0o600); err != nil {
		log.Fatal(err)
	}
	stock := httptest.NewTLSServer(nil) // has a certificate, and a client that trusts it
	defer stock.Close()
	config := stock.TLS.Clone()

	server := &fileserver.Server{TLS: ktls.NewServer(config, nil)}
	files := http.FileServer(http.Dir(folder))
	options := &fileserver.Options{MinSize: fileserver.DefaultMinSize}
	sent := make(chan int64, 1)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w, response := fileserver.Wrap(w, r, options)
		defer response.Done()
		files.ServeHTTP(w, r)
		sent <- response.Sent() + response.Copied()
	})

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	web := &http.Server{Handler: handler, ConnState: fileserver.ConnState}
	go func() { _ = web.Serve(server.Listener(tls.NewListener(ln, config))) }()
	defer web.Close()

	resp, err := stock.Client().Get("https://" + ln.Addr().String() + "/file.bin")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	fmt.Println(resp.Status, n, err)
	fmt.Println("by sendfile or copied:", <-sent)
	// Output:
	// 200 OK 100000 <nil>
	// by sendfile or copied: 100000
}
