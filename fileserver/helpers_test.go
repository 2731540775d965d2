package fileserver

import (
	"bytes"

	"golang.org/x/net/http2/hpack"

	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/ktls"
)

func requireKernelTLS(t testing.TB) {
	t.Helper()
	if _, err := ktls.Probe(); err != nil {
		if os.Getenv("KTLS_REQUIRED") != "" {
			t.Fatal("kernel TLS is required:", err)
		}
		t.Skip(err)
	}
}

// idleWriter is what Caddy's server puts around net/http's writer.
func idleWriter(w http.ResponseWriter, maxChunk int, timeout time.Duration) *caddyhttp.IdleTimeoutWriter {
	return &caddyhttp.IdleTimeoutWriter{
		ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w},
		Ctrl:                  http.NewResponseController(w),
		Deadline:              caddyhttp.IdleDeadline{Start: time.Now(), Timeout: timeout},
		MaxChunk:              maxChunk,
		Logger:                zap.NewNop(),
	}
}

// smallListener gives connections a small send buffer: with a large one a client
// that reads slowly isn't seen to read for seconds.
type smallListener struct{ net.Listener }

func (l smallListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		err = conn.(*net.TCPConn).SetWriteBuffer(128 << 10)
	}
	return conn, err
}

// hidingListener hides all methods of a connection that net.Conn doesn't have,
// as Caddy does.
type hidingListener struct{ net.Listener }

func (l hidingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return struct{ net.Conn }{conn}, err
}

// A site is a server whose handler is behind Wrap.
type site struct {
	*http.Client
	url        string
	own        *Server
	options    *Options
	inner      net.Listener // with TLS
	reports    chan Reason
	failed     chan error
	distrusted chan struct{}
	sent       atomic.Int64
	handled    chan struct{} // gets one for each request
}

// prepareSite returns a site that nobody serves yet. What TLS accepts from is made by tcp.
func prepareSite(t testing.TB, connections *ktls.Options, tcp func(net.Listener) net.Listener, protos ...string) *site {
	t.Helper()
	config, client := testConfig()
	config.NextProtos = protos
	tcpListener := listen(t)
	s := &site{
		Client: client, url: "https://" + tcpListener.Addr().String(), inner: tls.NewListener(tcp(tcpListener), config),
		reports: make(chan Reason, 100), failed: make(chan error, 100),
		distrusted: make(chan struct{}, 100), handled: make(chan struct{}, 100),
	}
	s.options = &Options{
		MinSize: 10_000,
		Sending: func(_ *http.Request, reason Reason) { s.reports <- reason },
		Failed:  func(_ *http.Request, err error) { s.failed <- err },
	}
	s.own = &Server{
		TLS:        ktls.NewServer(config, connections),
		Sent:       func(n int64) { s.sent.Add(n) },
		Distrusted: func() { s.distrusted <- struct{}{} },
	}
	return s
}

// newSite serves handler as Caddy would, with idle timeouts of the given
// settings, or without if timeout is 0.
func newSite(t testing.TB, maxChunk int, timeout time.Duration, handler http.HandlerFunc) *site {
	t.Helper()
	return newWrappedSite(t, maxChunk, timeout, nil, func(inner net.Listener) net.Listener { return hidingListener{inner} }, handler)
}

// newWrappedSite is newSite with options, and another listener between the
// connections and net/http.
func newWrappedSite(t testing.TB, maxChunk int, timeout time.Duration, connections *ktls.Options,
	outer func(net.Listener) net.Listener, handler http.HandlerFunc,
) *site {
	t.Helper()
	s := prepareSite(t, connections, func(inner net.Listener) net.Listener { return smallListener{inner} })
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { s.handled <- struct{}{} }()
		if timeout > 0 {
			idle := idleWriter(w, maxChunk, timeout)
			r = r.WithContext(caddyhttp.ContextWithIdleTimeouts(r.Context(), nil, idle))
			w = idle
		}
		w, _ = Wrap(w, r, s.options)
		w, _ = Wrap(w, r, s.options) // twice is as good as once
		handler(w, r)
	})}
	go func() { _ = server.Serve(outer(s.own.Listener(s.inner))) }()
	t.Cleanup(func() {
		server.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := s.own.TLS.Wait(ctx); err != nil {
			t.Error("closing connections:", err)
		}
	})
	return s
}

// newHTTP2Site is newSite for HTTP/2, whatever the kernel can do. What Caddy would
// log as the body's length is sent to logged.
func newHTTP2Site(t testing.TB, handler http.HandlerFunc) (s *site, logged chan int) {
	t.Helper()
	s = prepareSite(t, nil, func(inner net.Listener) net.Listener { return inner }, "h2")
	s.Transport = &http.Transport{TLSClientConfig: s.Transport.(*http.Transport).TLSClientConfig.Clone(), ForceAttemptHTTP2: true}
	logged = make(chan int, 100)
	served := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { s.handled <- struct{}{} }()
		recorder := caddyhttp.NewResponseRecorder(w, nil, nil)
		wrapped, response := Wrap(recorder, r, s.options)
		defer response.Done()
		handler(wrapped, r)
		logged <- recorder.Size()
	})
	go serveHTTP2(s.own.Listener(s.inner), &http2.ServeConnOpts{Handler: served})
	return s, logged
}

// serveHTTP2 has HTTP/2 served on all connections of a listener.
func serveHTTP2(ln net.Listener, options *http2.ServeConnOpts) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			// Caddy has it done before it lets a server have the connection.
			_, _ = conn.Read(nil)
			new(http2.Server).ServeConn(conn, options) //nolint:staticcheck // it takes any connection
		}()
	}
}

// testConfig returns a configuration with a certificate, and a client that takes it.
func testConfig() (*tls.Config, *http.Client) {
	stock := httptest.NewTLSServer(http.NotFoundHandler())
	defer stock.Close()
	return &tls.Config{Certificates: stock.TLS.Certificates}, stock.Client()
}

// clientConfig returns the configuration of a client for connections of its own.
func clientConfig(client *http.Client, protos ...string) *tls.Config {
	config := client.Transport.(*http.Transport).TLSClientConfig.Clone()
	config.ServerName, config.NextProtos = "example.com", protos
	return config
}

// listen returns a listener on loopback.
func listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { ln.Close() })
	return ln
}

// dial returns a connection to the site. It ends in a minute.
func (s *site) dial(t testing.TB, protos ...string) *tls.Conn {
	t.Helper()
	conn, err := tls.Dial("tcp", s.inner.Addr().String(), clientConfig(s.Client, protos...))
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	must(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	return conn
}

// requestBlock returns the header block of a request for /, for the first frame of a
// connection over HTTP/2.
func requestBlock(t testing.TB) []byte {
	t.Helper()
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":path", "/"}, {":authority", "example.com"}} {
		must(t, encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}))
	}
	return block.Bytes()
}

func (s *site) get(t testing.TB) (*http.Response, []byte, error) {
	t.Helper()
	response, err := s.Get(s.url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	<-s.handled // which may be after the last byte has arrived
	return response, body, err
}

func randomFile(t testing.TB, n int) (string, []byte) {
	t.Helper()
	body := make([]byte, n)
	for i := range body {
		body[i] = byte(i*i>>3 ^ i>>11)
	}
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, body, 0o600); err != nil {
		t.Fatal(err)
	}
	return name, body
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// restoreTrust undoes what a test makes of the trust in the protocols.
func restoreTrust(t testing.TB) {
	t.Helper()
	http1, http2 := http1Trust.lost.Load(), http2Trust.lost.Load()
	t.Cleanup(func() {
		http1Trust.lost.Store(http1)
		http2Trust.lost.Store(http2)
	})
}

// connPair returns both ends of a connection that is offloaded.
func connPair(t *testing.T) (server *conn, client *tls.Conn, distrusted chan struct{}) {
	t.Helper()
	config, httpClient := testConfig()
	inner := listen(t)
	distrusted = make(chan struct{}, 100)
	own := &Server{
		TLS:        ktls.NewServer(config, &ktls.Options{OffloadAll: true}),
		Distrusted: func() { distrusted <- struct{}{} },
	}
	raw, err := net.Dial("tcp", inner.Addr().String())
	must(t, err)
	client = tls.Client(raw, clientConfig(httpClient))
	t.Cleanup(func() { client.Close() })
	shaken := make(chan error, 1)
	go func() { shaken <- client.Handshake() }()
	accepted, err := own.Listener(tls.NewListener(inner, config)).Accept()
	must(t, err)
	server = accepted.(*conn)
	t.Cleanup(func() { server.Close() })
	must(t, errors.Join(server.shakeHands(), <-shaken))
	_, err = server.tls.Write([]byte{1}) // offloads the connection
	must(t, err)
	_, err = io.ReadFull(client, make([]byte, 1))
	must(t, err)
	if reason := server.tls.State(); reason != ktls.Offloaded {
		t.Fatal(reason)
	}
	return server, client, distrusted
}
