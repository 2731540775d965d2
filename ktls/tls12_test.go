package ktls

import (
	"bytes"
	"crypto/tls"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

func TestTLS12(t *testing.T) { testTLS12(t, fakeShapes) }

// testTLS12 offloads connections of every suite, after full and resumed handshakes,
// with and without client certificates and tickets.
func testTLS12(t *testing.T, newServer newShapes) {
	for _, sh := range []struct {
		name           string
		server, client func(*tls.Config)
		resumed        bool
	}{
		{name: "plain"},
		{name: "ticket", client: cached},
		{name: "tickets disabled", server: noTickets, client: cached},
		{name: "resumed", client: cached, resumed: true},
		{name: "client certificate", server: clientAuth(tls.RequireAndVerifyClientCert), client: identified},
		{name: "client certificate, resumed", server: clientAuth(tls.RequireAndVerifyClientCert),
			client: both(cached, identified), resumed: true},
	} {
		for i := range suites12 {
			suite := &suites12[i]
			eachMode(t, sh.name+"/"+tls.CipherSuiteName(suite.id), func(t *testing.T, mode mode) {
				server, own := shapeConfigs(both(keyFor(suite.id), sh.server), sh.client)
				own.MaxVersion, own.CipherSuites = tls.VersionTLS12, []uint16{suite.id}
				s := newServer(t, server, mode)
				conn, client, k := s.connect(t, own)
				if sh.resumed {
					transfer(t, conn, client, testutil.Body(70_000))
					conn.Close()
					wantEnd(t, client)
					conn, client, k = s.connect(t, own)
				}
				state := conn.ConnectionState()
				if state.CipherSuite != suite.id || state.DidResume != sh.resumed {
					t.Errorf("suite %#x, resumed %v", state.CipherSuite, state.DidResume)
				}
				transfer(t, conn, client, testutil.Body(70_001))
				if mode == onDemand {
					wantState(t, conn, NotNeeded)
					offload(t, conn, client)
				}
				wantState(t, conn, Offloaded)
				transfer(t, conn, client, testutil.Body(70_002))
				transferFrom(t, conn, client, testutil.OpenFile(t, testutil.Body(70_003)), testutil.Body(70_003))
				transferBack(t, conn, client, testutil.Body(70_004))
				s.end(t, conn, client)
				if k != nil && k.Counts().Files != 70_003 {
					t.Errorf("%d bytes by sendfile, want %d", k.Counts().Files, 70_003)
				}
			})
		}
	}
}

// Randoms are found however a hello is cut up, and nothing else is.
func TestHelloReader(t *testing.T) {
	hello := testHello(handshakeClientHello)
	var fragments []byte // a record for each byte
	for _, b := range hello[recordHeaderLen:] {
		fragments = append(fragments, 22, 3, 1, 0, 1, b)
	}
	warning := []byte{21, 3, 1, 0, 2, 1, 90}
	for _, tt := range []struct {
		name   string
		stream []byte
		want   []byte
	}{
		{"one record", hello, testRandom(1)},
		{"more behind it", append(bytes.Clone(hello), fragments...), testRandom(1)},
		{"a record for each byte", fragments, testRandom(1)},
		{"behind a warning", append(bytes.Clone(warning), hello...), testRandom(1)},
		{"another message", testHello(handshakeServerHello), nil},
		{"cut", hello[:len(hello)-1], nil},
		{"empty records", bytes.Repeat([]byte{22, 3, 1, 0, 0}, 100), nil},
		{"plain HTTP", []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"), nil},
		{"nothing", nil, nil},
	} {
		for _, step := range []int{1, 2, 7, 1000} {
			var h helloReader
			for rest := tt.stream; len(rest) > 0; {
				n := min(step, len(rest))
				h.add(rest[:n])
				rest = rest[n:]
			}
			if got := h.random(handshakeClientHello); !bytes.Equal(got, tt.want) {
				t.Errorf("%s, in pieces of %d: %x, want %x", tt.name, step, got, tt.want)
			}
		}
	}
}

// However the stream is cut, the result is the same.
func FuzzHelloReader(f *testing.F) {
	f.Add(testHello(handshakeClientHello), 3)
	f.Add(testHello(handshakeServerHello), 1)
	f.Add(append([]byte{21, 3, 1, 0, 2, 1, 90}, testHello(handshakeClientHello)...), 50)
	f.Fuzz(func(t *testing.T, stream []byte, cut int) {
		var whole, parts helloReader
		whole.add(stream)
		cut = max(0, min(cut, len(stream)))
		parts.add(stream[:cut])
		parts.add(stream[cut:])
		for _, typ := range []byte{handshakeClientHello, handshakeServerHello} {
			random := whole.random(typ)
			if !bytes.Equal(random, parts.random(typ)) {
				t.Errorf("cut at %d: %x and %x", cut, random, parts.random(typ))
			}
			if random != nil && len(random) != randomLen {
				t.Errorf("a random of %d bytes", len(random))
			}
		}
	})
}
