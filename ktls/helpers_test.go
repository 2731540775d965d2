package ktls

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

const testName = "ktls.test"

// testTimeout ends a test that hangs; nothing waits for it otherwise.
const testTimeout = 30 * time.Second

func serverConfig() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{testCertificate()}}
}

func clientConfig() *tls.Config {
	return &tls.Config{RootCAs: poolOf(testCertificate()), ServerName: testName}
}

// tcpPair returns the two ends of a TCP connection.
func tcpPair(t testing.TB) (client, server *net.TCPConn) {
	t.Helper()
	return dialPair(t, new(net.Dialer))
}

// dialPair is tcpPair with a dialer for the client's end.
func dialPair(t testing.TB, dialer *net.Dialer) (client, server *net.TCPConn) {
	t.Helper()
	ln := testutil.Listen(t)
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
		testutil.SameBody(t, got[:r.n], want)
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

// wantEnd checks that nothing but close_notify follows. crypto/tls takes an end
// without one for an orderly end if it is between records, so the client's
// connection must be on a testutil.Recording, unless it is a *peer, which is strict.
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
	for rest := client.NetConn().(*testutil.Recording).Got.Bytes(); len(rest) > 0; {
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
