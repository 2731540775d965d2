package ktls

import (
	"context"
	"crypto/tls"
	"net"
	"testing"
	"time"
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
		body := testBody(70_000)
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
		wantError(t, err, net.ErrClosed)
		_, err = conn.Write(make([]byte, 1))
		wantError(t, err, net.ErrClosed)
	})
}
