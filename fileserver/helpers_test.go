package fileserver

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil/caddytest"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

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

// hiding hides all methods of a listener's connections that net.Conn doesn't have, as
// Caddy does.
func hiding(ln net.Listener) net.Listener {
	return testutil.WrappingListener{Listener: ln, Wrap: func(c net.Conn) net.Conn { return struct{ net.Conn }{c} }}
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
	config, client := testutil.TLSConfig()
	config.NextProtos = protos
	tcpListener := testutil.Listen(t)
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
	return newWrappedSite(t, maxChunk, timeout, nil, hiding, handler)
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
			idle := caddytest.IdleWriter(w, maxChunk, timeout)
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
	go serveHTTP2(s.own.Listener(s.inner), &http.Server{Handler: served})
	return s, logged
}

// serveHTTP2 has HTTP/2 served on all connections of a listener.
func serveHTTP2(ln net.Listener, server *http.Server) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			// Caddy has it done before it lets a server have the connection.
			_, _ = conn.Read(nil)
			new(http2.Server).ServeConn(conn, &http2.ServeConnOpts{BaseConfig: server}) //nolint:staticcheck // it takes any connection
		}()
	}
}

// dial returns a connection to the site. It ends in a minute.
func (s *site) dial(t testing.TB, protos ...string) *tls.Conn {
	t.Helper()
	conn, err := tls.Dial("tcp", s.inner.Addr().String(), testutil.ClientConfig(s.Client, protos...))
	testutil.Must(t, err)
	t.Cleanup(func() { conn.Close() })
	testutil.Must(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	return conn
}

// askHTTP2 asks for / on stream 1 of a new connection, whose streams begin with a window
// of so many bytes.
func (s *site) askHTTP2(t testing.TB, window uint32) *http2.Framer {
	t.Helper()
	conn := s.dial(t, "h2")
	_, err := io.WriteString(conn, http2.ClientPreface)
	testutil.Must(t, err)
	framer := http2.NewFramer(conn, conn)
	testutil.Must(t, framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window}))
	testutil.Must(t, framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: requestBlock(t), EndHeaders: true, EndStream: true}))
	return framer
}

// requestBlock returns the header block of a request for /, for the first frame of a
// connection over HTTP/2.
func requestBlock(t testing.TB) []byte {
	t.Helper()
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":path", "/"}, {":authority", "example.com"}} {
		testutil.Must(t, encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}))
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

// randomFile returns the name of a file with a body of n bytes, and the body.
func randomFile(t testing.TB, n int) (name string, body []byte) {
	t.Helper()
	body = testutil.Body(n)
	return testutil.TempFile(t, body), body
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
	config, httpClient := testutil.TLSConfig()
	inner := testutil.Listen(t)
	distrusted = make(chan struct{}, 100)
	own := &Server{
		TLS:        ktls.NewServer(config, &ktls.Options{OffloadAll: true}),
		Distrusted: func() { distrusted <- struct{}{} },
	}
	raw, err := net.Dial("tcp", inner.Addr().String())
	testutil.Must(t, err)
	client = tls.Client(raw, testutil.ClientConfig(httpClient))
	t.Cleanup(func() { client.Close() })
	shaken := make(chan error, 1)
	go func() { shaken <- client.Handshake() }()
	accepted, err := own.Listener(tls.NewListener(inner, config)).Accept()
	testutil.Must(t, err)
	server = accepted.(*conn)
	t.Cleanup(func() { server.Close() })
	testutil.Must(t, errors.Join(server.shakeHands(), <-shaken))
	_, err = server.tls.Write([]byte{1}) // offloads the connection
	testutil.Must(t, err)
	_, err = io.ReadFull(client, make([]byte, 1))
	testutil.Must(t, err)
	if reason := server.tls.State(); reason != ktls.Offloaded {
		t.Fatal(reason)
	}
	return server, client, distrusted
}
