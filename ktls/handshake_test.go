package ktls

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// ConnectionState runs the handshake with the connection's context.
func TestConnectionState(t *testing.T) {
	eachKernel(t, serverConfig, func(t *testing.T, s *fakeServer) {
		type key struct{}
		got := make(chan any, 1)
		s.config.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			got <- hello.Context().Value(key{})
			certificate := testCertificate()
			return &certificate, nil
		}
		s.config.Certificates = nil
		clientEnd, serverEnd := tcpPair(t)
		conn, client := s.Conn(serverEnd), tls.Client(clientEnd, clientConfig())
		conn.SetContext(context.WithValue(context.Background(), key{}, "value"))
		body := testutil.Body(70_000)
		wait := receiving(t, client, body) // runs the handshake
		if state := conn.ConnectionState(); !state.HandshakeComplete || state.ServerName != testName {
			t.Errorf("state %+v", state)
		}
		if _, err := conn.Write(body); err != nil {
			t.Error("Write:", err)
		}
		if value := <-got; value != "value" {
			t.Errorf("the context has %v", value)
		}
		wait()
		conn.Close()
	})
}

// Close ends a handshake that ConnectionState waits for, and one may ask again.
func TestConnectionStateClosed(t *testing.T) {
	eachKernel(t, serverConfig, func(t *testing.T, s *fakeServer) {
		if d := s.options.HandshakeTimeout; d != time.Minute {
			t.Errorf("the bound is %v by default", d)
		}
		s.options.HandshakeTimeout = -1
		_, serverEnd := tcpPair(t) // nobody says anything
		conn := s.Conn(serverEnd)
		states := make(chan tls.ConnectionState, 1)
		go func() { states <- conn.ConnectionState() }()
		select {
		case <-states:
			t.Fatal("ConnectionState has not waited")
		case <-time.After(100 * time.Millisecond):
		}
		conn.Close()
		for range 2 {
			if state := <-states; state.HandshakeComplete {
				t.Error("the handshake is complete")
			}
			states <- conn.ConnectionState()
		}
		_, err := conn.Read(make([]byte, 1))
		testutil.WantError(t, err, net.ErrClosed)
		_, err = conn.Write(make([]byte, 1))
		testutil.WantError(t, err, net.ErrClosed)
	})
}

// The context of a connection gets to the handshake that Read begins, and a second
// caller's context counts too.
func TestHandshakeContext(t *testing.T) {
	type key struct{}
	config := serverConfig()
	var got any
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		got = hello.Context().Value(key{})
		return nil, nil
	}
	s := newFakeServer(t, config, onDemand, nil)
	clientEnd, serverEnd := tcpPair(t)
	conn := s.Conn(serverEnd)
	conn.SetContext(context.WithValue(context.Background(), key{}, "value"))
	client := tls.Client(clientEnd, clientConfig())
	go func() { _, _ = client.Write([]byte("x")) }()
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if got != "value" {
		t.Errorf("the context has %v", got)
	}

	_, serverEnd = tcpPair(t)
	conn = s.Conn(serverEnd)
	first := make(chan error, 1)
	go func() { first <- conn.Handshake() }() // the client is silent
	ctx, cancel := context.WithCancel(context.Background())
	second := make(chan error, 1)
	go func() { second <- conn.HandshakeContext(ctx) }()
	cancel()
	for _, ended := range []chan error{first, second} {
		select {
		case err := <-ended:
			if err == nil {
				t.Error("the handshake succeeded")
			}
		case <-time.After(soon):
			t.Error("the handshake goes on though a context is done")
		}
	}
}

// CloseWrite that races with the end of the handshake sends one close_notify.
func TestCloseWriteDuringHandshake(t *testing.T) {
	for range 50 {
		s := newFakeServer(t, serverConfig(), offloadAll, nil)
		clientEnd, serverEnd := tcpPair(t)
		conn := s.Conn(serverEnd)
		client := tls.Client(&testutil.Recording{Conn: clientEnd}, clientConfig())
		done := make(chan struct{})
		go func() { defer close(done); _, _ = conn.Write([]byte("x")) }() // offloads it, if it is in time
		go func() {
			for conn.CloseWrite() != nil { // too early
			}
		}()
		if err := client.Handshake(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(client)
		if err != nil || string(got) != "" && string(got) != "x" || !endsWithAlert(client) {
			t.Fatalf("got %q, %v; want close_notify", got, err)
		}
		<-done
		conn.Close()
		if rest, err := io.ReadAll(clientEnd); len(rest) > 0 {
			t.Fatalf("%d bytes follow close_notify, %v", len(rest), err)
		}
	}
}

func TestNilConfig(t *testing.T) {
	clientEnd, serverEnd := tcpPair(t)
	conn := NewServer(nil, nil).Conn(serverEnd)
	go func() { _ = tls.Client(clientEnd, clientConfig()).Handshake() }()
	if err := conn.Handshake(); err == nil || errors.Is(err, net.ErrClosed) {
		t.Errorf("Handshake without a certificate: %v", err)
	}
	conn.Close()
}
