package ktls

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

const testName = "ktls.test"

// testTimeout ends a test that hangs; nothing waits for it otherwise.
const testTimeout = 30 * time.Second

func serverConfig() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{testCertificate()}}
}

func clientConfig() *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(testCertificate().Leaf)
	return &tls.Config{RootCAs: roots, ServerName: testName}
}

// tcpPair returns the two ends of a TCP connection.
func tcpPair(t testing.TB) (client, server *net.TCPConn) {
	t.Helper()
	return dialPair(t, new(net.Dialer))
}

// dialPair is tcpPair with a dialer for the client's end.
func dialPair(t testing.TB, dialer *net.Dialer) (client, server *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := dialer.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	_ = c.SetDeadline(time.Now().Add(testTimeout))
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

// handshake runs both sides' handshakes.
func handshake(t testing.TB, conn *Conn, client *tls.Conn) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- conn.Handshake() }()
	if err := client.Handshake(); err != nil {
		t.Fatal("client's handshake:", err)
	}
	if err := <-done; err != nil {
		t.Fatal("server's handshake:", err)
	}
}

// testBody returns n bytes that no two offsets have in common.
func testBody(n int) []byte {
	b := make([]byte, n)
	_, _ = mathrand.NewChaCha8([32]byte{byte(n), byte(n >> 8)}).Read(b)
	return b
}

// testFile returns an open file with a body.
func testFile(t testing.TB, body []byte) *os.File {
	t.Helper()
	name := filepath.Join(t.TempDir(), "body")
	if err := os.WriteFile(name, body, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func sameBody(t testing.TB, got, want []byte) {
	t.Helper()
	if g, w := sha256.Sum256(got), sha256.Sum256(want); g == w {
		return
	}
	n := 0
	for n < min(len(got), len(want)) && got[n] == want[n] {
		n++
	}
	t.Errorf("got %d bytes, want %d, which differ from offset %d on", len(got), len(want), n)
}

// receiving reads len(want) bytes from r in the background and compares. The
// function that it returns waits for that.
func receiving(t testing.TB, r io.Reader, want []byte) (wait func()) {
	t.Helper()
	got := make([]byte, len(want))
	type result struct {
		n   int
		err error
	}
	done := make(chan result, 1)
	go func() {
		n, err := io.ReadFull(r, got)
		done <- result{n, err}
	}()
	return func() {
		t.Helper()
		r := <-done
		if r.err != nil {
			t.Errorf("receive: %v", r.err)
		}
		sameBody(t, got[:r.n], want)
	}
}

// transfer writes body with one Write and compares what the client receives.
func transfer(t testing.TB, conn *Conn, client io.Reader, body []byte) {
	t.Helper()
	wait := receiving(t, client, body)
	if n, err := conn.Write(body); n != len(body) || err != nil {
		t.Errorf("Write = %d, %v; want %d", n, err, len(body))
	}
	wait()
}

// transferBack is transfer in the other direction.
func transferBack(t testing.TB, conn *Conn, client io.Writer, body []byte) {
	t.Helper()
	wait := receiving(t, conn, body)
	if _, err := client.Write(body); err != nil {
		t.Error("client's Write:", err)
	}
	wait()
}

// end closes a connection whose client gets everything, and close_notify.
func (s *fakeServer) end(t testing.TB, conn *Conn, client io.Reader) {
	t.Helper()
	if err := conn.Close(); err != nil {
		t.Error("Close:", err)
	}
	wantEnd(t, client)
	waitFor(t, s.Server)
	s.wantNoneLost(t)
}

// offload offloads a connection, which takes a write.
func offload(t testing.TB, conn *Conn, client io.Reader) {
	t.Helper()
	conn.Offload()
	transfer(t, conn, client, []byte("proof"))
	wantState(t, conn, Offloaded)
}

func wantState(t testing.TB, conn *Conn, want State) {
	t.Helper()
	if got := conn.State(); got != want {
		t.Fatalf("state %v, want %v", got, want)
	}
}

// patient waits without a bound.
type patient struct{}

func (patient) wait(ready <-chan struct{}) error { <-ready; return nil }

// A recording keeps what was read.
type recording struct {
	net.Conn
	read bytes.Buffer
}

func (c *recording) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read.Write(p[:n])
	return n, err
}

// wantEnd checks that nothing but close_notify follows. crypto/tls takes an end
// without one for an orderly end if it is between records, so the client's
// connection must be on a recording, unless it is a *peer, which is strict.
func wantEnd(t testing.TB, client io.Reader) {
	t.Helper()
	rest, err := io.ReadAll(client)
	if len(rest) > 0 || err != nil {
		t.Errorf("%d more bytes, %v; want none and close_notify", len(rest), err)
	}
	if c, ok := client.(*tls.Conn); ok && !endsWithAlert(c) {
		t.Error("the connection ended without close_notify")
	}
}

// endsWithAlert reports whether the last record that the client has got has the
// length of an alert.
func endsWithAlert(client *tls.Conn) bool {
	var last []byte
	for rest := client.NetConn().(*recording).read.Bytes(); len(rest) > 0; {
		record, tail, ok := cutRecord(rest)
		if !ok {
			return false
		}
		last, rest = record, tail
	}
	if client.ConnectionState().Version <= tls.VersionTLS12 {
		return last[0] == 21
	}
	return last[0] == 23 && len(last) == recordHeaderLen+sealedAlertLen
}

func waitFor(t testing.TB, s *Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	if err := s.Wait(ctx); err != nil {
		t.Fatal("Wait:", err)
	}
}

func wantZero(t testing.TB, what string, secret []byte) {
	t.Helper()
	if len(secret) == 0 || !bytes.Equal(secret, make([]byte, len(secret))) {
		t.Errorf("%s (%d bytes) is not zeroed", what, len(secret))
	}
}

func wantError(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
}
