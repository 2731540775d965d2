package ktls

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A client that is refused ends its own connection and no other.
func TestShapesRefused(t *testing.T) { testShapesRefused(t, fakeShapes) }

func testShapesRefused(t *testing.T, newServer newShapes) {
	for _, tt := range []struct {
		name   string
		server func(*tls.Config)
		client func(*tls.Config)
		alert  tls.AlertError
	}{
		// Alerts of RFC 8446, section 6.
		{"required, not given", clientAuth(tls.RequireAnyClientCert), cached, 116},
		{"verified, not given", clientAuth(tls.RequireAndVerifyClientCert), cached, 116},
		{"verified, unknown", clientAuth(tls.RequireAndVerifyClientCert), certified(p384Identity, 0), 48},
		{"optional, unknown", clientAuth(tls.VerifyClientCertIfGiven), certified(p384Identity, 0), 48},
		{"wrong signature", clientAuth(tls.RequestClientCert), forged, 51},
	} {
		eachMode(t, tt.name, func(t *testing.T, mode mode) {
			server, own := shapeConfigs(tt.server, tt.client)
			s := newServer(t, server, mode)
			clientEnd, serverEnd := tcpPair(t)
			conn, client := s.Conn(serverEnd), tls.Client(clientEnd, own)
			done := make(chan error, 1)
			go func() { done <- conn.Handshake() }()
			if err := client.Handshake(); err != nil { // the client is done before the server
				t.Error("client's handshake:", err)
			}
			if err := <-done; err == nil {
				t.Error("the server's handshake succeeded")
			}
			conn.Offload()
			if n, err := conn.Write(testutil.Body(70_000)); n != 0 || err == nil {
				t.Errorf("Write = %d, %v", n, err)
			}
			wantAlert(t, client, tt.alert)
			wantState(t, conn, NotNeeded)
			if conn.tap.relay.Load() != nil {
				t.Error("offloaded")
			}
			if err := conn.Close(); err != nil {
				t.Error("Close:", err)
			}
			s.wantDecided(t, conn, NotNeeded, nil)
			wantZeroed(t, conn)

			_, own = shapeConfigs(tt.server, identified)
			conn, client, _ = s.connect(t, own)
			conn.Offload()
			transfer(t, conn, client, testutil.Body(70_000))
			wantState(t, conn, Offloaded)
			transfer(t, conn, client, testutil.Body(70_001))
			conn.Close()
			wantEnd(t, client)
		})
	}
}

// wantAlert checks that the peer has ended the connection by an alert.
func wantAlert(t testing.TB, r io.Reader, want tls.AlertError) {
	t.Helper()
	n, err := r.Read(make([]byte, 1))
	var remote *net.OpError
	if !errors.As(err, &remote) || remote.Op != "remote error" || remote.Err.Error() != want.Error() {
		t.Errorf("Read = %d, %v; want %v of the peer", n, err, want)
	}
}

// A server that can't open an encrypted ClientHello goes on with the outer one.
// A client that only pretends to encrypt (GREASE) goes on, too; crypto/tls sends
// an alert after its Finished. The client here does both.
func TestShapesECHRejected(t *testing.T) { testShapesECHRejected(t, fakeShapes) }

func testShapesECHRejected(t *testing.T, newServer newShapes) {
	for _, sh := range []shape{
		{name: "plain"},
		{name: "retry", server: curves(tls.CurveP384), retry: true},
		{name: "certificate", server: clientAuth(tls.RequestClientCert), client: identified},
	} {
		eachMode(t, sh.name, func(t *testing.T, mode mode) {
			server, own := shapeConfigs(both(echServer, certified(p384Identity, 0), sh.server), both(cached, echUnknown, sh.client))
			var log bytes.Buffer
			own.KeyLogWriter = &log
			s := newServer(t, server, mode)
			clientEnd, serverEnd := tcpPair(t)
			wire := &testutil.Recording{Conn: clientEnd}
			conn, client := s.Conn(serverEnd), tls.Client(wire, own)
			done := make(chan error, 1)
			go func() { done <- conn.Handshake() }()
			var rejected *tls.ECHRejectionError
			if err := client.Handshake(); !errors.As(err, &rejected) {
				t.Error("client's handshake:", err)
			}
			if err := <-done; err != nil {
				t.Fatal("server's handshake:", err)
			}
			state := conn.ConnectionState()
			if state.ECHAccepted || state.HelloRetryRequest != sh.retry || state.ServerName != echName {
				t.Errorf("ECH %v, retry %v, name %q", state.ECHAccepted, state.HelloRetryRequest, state.ServerName)
			}
			p := &peer{t: t, conn: clientEnd, suite: suiteByID(state.CipherSuite)}
			p.r = bufio.NewReader(io.MultiReader(&wire.Got, clientEnd))
			p.in.set(t, p.suite, testutil.LoggedSecret(t, log.String(), "SERVER_TRAFFIC_SECRET_0"))

			wantAlert(t, conn, 121) // ech_required
			conn.Offload()
			transfer(t, conn, p, testutil.Body(70_000))
			wantState(t, conn, Offloaded)
			transfer(t, conn, p, testutil.Body(70_001))
			transferFrom(t, conn, p, testutil.OpenFile(t, testutil.Body(70_002)), testutil.Body(70_002))
			s.end(t, conn, p)
		})
	}
}
