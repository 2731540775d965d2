package ktls

import (
	"bytes"
	"crypto/tls"
	"io"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A shape is a handshake of TLS 1.3. Shapes differ in the number, length and
// kind of the records that they leave under either secret.
type shape struct {
	name   string
	server func(*tls.Config)
	client func(*tls.Config)
	again  bool // the second connection of a client counts, with or without a ticket

	// What shows that the handshake had the shape.
	resumed bool
	retry   bool // HelloRetryRequest
	ech     bool
	curve   tls.CurveID // 0: whichever
	peers   int         // certificates of the client
	flight  int         // records under the handshake secret
	tickets int         // records with session tickets
}

// A client of crypto/tls offers psk_dhe_ke, without which it gets no ticket,
// only if it has a session cache and tickets are not disabled.
var shapes = []shape{
	{name: "plain", flight: 4},
	{name: "ticket", client: cached, flight: 4, tickets: 1},
	{name: "tickets disabled by the server", server: noTickets, client: cached, again: true, flight: 4},
	{name: "tickets disabled by the client", client: both(cached, noTickets), again: true, flight: 4},
	{name: "resumed", client: cached, again: true, resumed: true, flight: 2, tickets: 1},

	{name: "certificate requested, not given", server: clientAuth(tls.RequestClientCert), client: cached, flight: 5, tickets: 1},
	{name: "certificate requested, not given, no ticket", server: clientAuth(tls.RequestClientCert), flight: 5},
	{name: "certificate requested, given", server: clientAuth(tls.RequestClientCert), client: both(cached, identified), peers: 1, flight: 5, tickets: 1},
	{name: "certificate required, given", server: clientAuth(tls.RequireAnyClientCert), client: both(cached, identified), peers: 1, flight: 5, tickets: 1},
	{name: "certificate required, given, no ticket", server: clientAuth(tls.RequireAnyClientCert), client: identified, peers: 1, flight: 5},
	{name: "certificate optional, not given", server: clientAuth(tls.VerifyClientCertIfGiven), client: cached, flight: 5, tickets: 1},
	{name: "certificate optional, given", server: clientAuth(tls.VerifyClientCertIfGiven), client: both(cached, identified), peers: 1, flight: 5, tickets: 1},
	{name: "certificate verified", server: clientAuth(tls.RequireAndVerifyClientCert), client: both(cached, identified), peers: 1, flight: 5, tickets: 1},
	{name: "certificate verified, resumed", server: clientAuth(tls.RequireAndVerifyClientCert), client: both(cached, identified), again: true, resumed: true, peers: 1, flight: 2, tickets: 1},
	{name: "certificate optional, not given, resumed", server: clientAuth(tls.VerifyClientCertIfGiven), client: cached, again: true, resumed: true, flight: 2, tickets: 1},

	{name: "retry", server: curves(tls.CurveP256), retry: true, curve: tls.CurveP256, flight: 4},
	{name: "retry, ticket", server: curves(tls.CurveP384), client: cached, retry: true, curve: tls.CurveP384, flight: 4, tickets: 1},
	{name: "retry, resumed", server: curves(tls.CurveP384), client: cached, again: true, resumed: true, retry: true, curve: tls.CurveP384, flight: 2, tickets: 1},
	{name: "retry, certificate verified", server: both(curves(tls.CurveP384), clientAuth(tls.RequireAndVerifyClientCert)), client: both(cached, identified), retry: true, curve: tls.CurveP384, peers: 1, flight: 5, tickets: 1},

	{name: "ECH", server: echServer, client: both(cached, echKnown), ech: true, flight: 4, tickets: 1},
	{name: "ECH, resumed", server: echServer, client: both(cached, echKnown), again: true, resumed: true, ech: true, flight: 2, tickets: 1},
	{name: "ECH, retry", server: both(echServer, curves(tls.CurveP384)), client: both(cached, echKnown), ech: true, retry: true, curve: tls.CurveP384, flight: 4, tickets: 1},
	{name: "ECH, certificate verified", server: both(echServer, clientAuth(tls.RequireAndVerifyClientCert)), client: both(cached, echKnown, identified), ech: true, peers: 1, flight: 5, tickets: 1},
	{name: "ECH not used", server: echServer, client: cached, flight: 4, tickets: 1},

	// 20 KiB and 100 KiB of the server, 20 KiB and 40 KiB of the client.
	{name: "large server certificate", server: certified(largeIdentity, 0), client: cached, flight: 5, tickets: 1},
	{name: "large server chain", server: certified(largeIdentity, 4), client: cached, flight: 10, tickets: 1},
	{name: "large client certificate", server: clientAuth(tls.RequireAnyClientCert), client: both(cached, certified(largeIdentity, 0)), peers: 1, flight: 5, tickets: 2},
	{name: "large client chain", server: clientAuth(tls.RequireAnyClientCert), client: both(cached, certified(largeIdentity, 1)), peers: 2, flight: 5, tickets: 3},
	{name: "large client chain, resumed", server: clientAuth(tls.RequireAnyClientCert), client: both(cached, certified(largeIdentity, 1)), again: true, resumed: true, peers: 2, flight: 2, tickets: 3},

	{name: "X25519", server: curves(tls.X25519), curve: tls.X25519, flight: 4},
	{name: "X25519MLKEM768", server: curves(tls.X25519MLKEM768), curve: tls.X25519MLKEM768, flight: 4},
	{name: "P-256", server: curves(tls.CurveP256), client: curves(tls.CurveP256), curve: tls.CurveP256, flight: 4},
	{name: "P-384", server: curves(tls.CurveP384), client: curves(tls.CurveP384), curve: tls.CurveP384, flight: 4},
	{name: "RSA", server: certified(rsaIdentity, 0), client: cached, flight: 4, tickets: 1},
	{name: "ECDSA with P-384", server: certified(p384Identity, 0), client: cached, flight: 4, tickets: 1},
	{name: "Ed25519", server: certified(ed25519Identity, 0), client: cached, flight: 4, tickets: 1},
}

func TestShapes(t *testing.T) { testShapes(t, fakeShapes) }

// newShapes makes a server, with fake kernels or with the real one.
type newShapes func(testing.TB, *tls.Config, mode) *fakeServer

func fakeShapes(t testing.TB, config *tls.Config, mode mode) *fakeServer {
	return newFakeServer(t, config, mode, nil)
}

func testShapes(t *testing.T, newServer newShapes) {
	for _, sh := range shapes {
		eachMode(t, sh.name, func(t *testing.T, mode mode) { sh.test(t, newServer, mode) })
	}
}

func (sh *shape) test(t *testing.T, newServer newShapes, mode mode) {
	server, own := shapeConfigs(sh.server, sh.client)
	var log bytes.Buffer
	own.KeyLogWriter = &log
	s := newServer(t, server, mode)
	conn, client, k := s.connect(t, own)
	if sh.again {
		transfer(t, conn, client, []byte("first")) // a ticket comes before it
		if err := conn.Close(); err != nil {
			t.Fatal("Close:", err)
		}
		wantEnd(t, client)
		log.Reset()
		conn, client, k = s.connect(t, own)
	}
	sh.wantState(t, conn.ConnectionState())
	before := 0 // bytes that the kernel has to send before
	if mode == offloadAll {
		wantState(t, conn, Offloaded)
		if want := uint64(sh.tickets) + 1; k != nil && k.Sequence() != want {
			t.Errorf("the kernel begins with number %d, want %d", k.Sequence(), want)
		}
		before = 70_000 + 70_001 + 70_002
	}

	transfer(t, conn, client, testutil.Body(70_000))
	transferFrom(t, conn, client, bytes.NewReader(testutil.Body(70_001)), testutil.Body(70_001))
	if mode == onDemand {
		wantState(t, conn, NotNeeded)
		conn.Offload()
	}
	transfer(t, conn, client, testutil.Body(70_002))
	wantState(t, conn, Offloaded)

	transfer(t, conn, client, testutil.Body(70_003))
	transferFrom(t, conn, client, testutil.OpenFile(t, testutil.Body(70_004)), testutil.Body(70_004))
	wait := receiving(t, client, append([]byte("header"), testutil.Body(70_005)...))
	if n, err := conn.SendFile([]byte("header"), filerange.Segment{File: testutil.OpenFile(t, testutil.Body(70_005)), Len: 70_005}); n != 70_005 || err != nil {
		t.Errorf("SendFile = %d, %v", n, err)
	}
	wait()
	if k != nil {
		k.wantSent(t, before+70_003+70_004+6+70_005, 70_004+70_005)
	}
	transferBack(t, conn, client, testutil.Body(70_006))

	s.end(t, conn, client)
	s.wantDecided(t, conn, Offloaded, nil)

	next := sh.wantRecords(t, client, log.String())
	if k != nil && k.Sequence() != next {
		t.Errorf("the kernel ends with number %d, the client with %d", k.Sequence(), next)
	}
}

// wantState checks that the shape took place.
func (sh *shape) wantState(t testing.TB, state tls.ConnectionState) {
	t.Helper()
	if state.DidResume != sh.resumed || state.HelloRetryRequest != sh.retry || state.ECHAccepted != sh.ech {
		t.Errorf("resumed %v, retry %v, ECH %v; want %v, %v, %v", state.DidResume, state.HelloRetryRequest,
			state.ECHAccepted, sh.resumed, sh.retry, sh.ech)
	}
	if sh.curve != 0 && state.CurveID != sh.curve {
		t.Errorf("curve %v, want %v", state.CurveID, sh.curve)
	}
	if state.Version != tls.VersionTLS13 || state.ServerName != testName || len(state.PeerCertificates) != sh.peers {
		t.Errorf("version %#x, name %q, %d certificates; want TLS 1.3, %q, %d", state.Version, state.ServerName,
			len(state.PeerCertificates), testName, sh.peers)
	}
}

// wantRecords opens every encrypted record that the client has got, in order,
// and returns how many were under the application secret.
func (sh *shape) wantRecords(t testing.TB, client *tls.Conn, log string) uint64 {
	t.Helper()
	var hs, app direction
	suite := suiteByID(client.ConnectionState().CipherSuite)
	hs.set(t, suite, testutil.LoggedSecret(t, log, "SERVER_HANDSHAKE_TRAFFIC_SECRET"))
	app.set(t, suite, testutil.LoggedSecret(t, log, "SERVER_TRAFFIC_SECRET_0"))
	tickets := 0
	for rest := client.NetConn().(*testutil.Recording).Got.Bytes(); len(rest) > 0; {
		record, tail, ok := cutRecord(rest)
		if !ok {
			t.Fatalf("%d bytes are no record", len(rest))
		}
		rest = tail
		if record[0] != 23 {
			continue
		}
		if app.sequence == 0 {
			if _, _, ok := hs.key.open(record, hs.sequence); ok {
				hs.sequence++
				continue
			}
		}
		typ, _, ok := app.key.open(record, app.sequence)
		if !ok {
			t.Fatalf("record %d is not authentic", app.sequence)
		}
		app.sequence++
		if typ == recordHandshake {
			tickets++
		}
	}
	if hs.sequence != uint64(sh.flight) || tickets != sh.tickets {
		t.Errorf("%d records under the handshake secret, %d with tickets; want %d, %d", hs.sequence, tickets, sh.flight, sh.tickets)
	}
	return app.sequence
}

// transferFrom is transfer by ReadFrom.
func transferFrom(t testing.TB, conn *Conn, client, r io.Reader, body []byte) {
	t.Helper()
	wait := receiving(t, client, body)
	if n, err := conn.ReadFrom(r); n != int64(len(body)) || err != nil {
		t.Errorf("ReadFrom = %d, %v; want %d", n, err, len(body))
	}
	wait()
}

func (s *fakeServer) wantNoneLost(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.lost) > 0 {
		t.Errorf("lost: %v", s.lost)
	}
}

// eachMode runs a test in both modes.
func eachMode(t *testing.T, name string, test func(*testing.T, mode)) {
	for _, mode := range []mode{onDemand, offloadAll} {
		t.Run(name+"/"+mode.String(), func(t *testing.T) { test(t, mode) })
	}
}
