package ktls

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/fakekernel"
)

// A flight is what crypto/tls hands to a tap until the offload.
type flight struct {
	name      string
	counter   *recordCounter // has the secrets
	handshake [][]byte       // writes in the handshake
	after     [][]byte       // writes after it, of one record each
	number    uint64         // of the first record after the handshake
}

// writes keeps what is written to a connection.
type writes struct {
	net.Conn
	got [][]byte
}

func (w *writes) Write(p []byte) (int, error) {
	w.got = append(w.got, bytes.Clone(p))
	return w.Conn.Write(p)
}

func (w *writes) take() [][]byte {
	got := w.got
	w.got = nil
	return got
}

// Contents of the records after the handshake. One looks like an alert, and the
// last is the proof.
var flightData = [][]byte{[]byte("first data"), []byte("xx"), []byte("proof")}

// handshakeFlight takes a flight from crypto/tls.
func handshakeFlight(t testing.TB, name string, server, client func(*tls.Config)) flight {
	t.Helper()
	serverConfig, clientConfig := shapeConfigs(server, both(cached, client))
	s := newFakeServer(t, serverConfig, onDemand, nil)
	clientEnd, serverEnd := tcpPair(t)
	conn, c := s.Conn(serverEnd), tls.Client(clientEnd, clientConfig)
	w := &writes{Conn: serverEnd}
	conn.tap.Conn = w
	handshake(t, conn, c)
	f := flight{name: name, counter: &conn.tap.counter, handshake: w.take(), number: 1} // behind a ticket, or TLS 1.2's Finished
	for _, p := range flightData {
		transfer(t, conn, c, p)
	}
	f.after = w.take()
	return f
}

// scriptFlight makes a flight, for suites that crypto/tls doesn't negotiate
// with itself.
func scriptFlight(t testing.TB, s *suite, tickets int) flight {
	t.Helper()
	sc := newScript(t, s)
	w := &writes{Conn: sc.raw}
	sc.tap.Conn = w
	sc.plain(22)
	sc.plain(20)
	sc.hsRecord()
	sc.hsRecord()
	for range tickets {
		sc.ticket()
	}
	sc.done()
	f := flight{name: fmt.Sprintf("%v, %d tickets", s, tickets), counter: sc.counter(), number: uint64(tickets)}
	f.handshake = [][]byte{slices.Concat(w.take()...)}
	for _, p := range flightData {
		sc.data(string(p))
	}
	f.after = w.take()
	return f
}

// replay gives a fresh tap the flight as a Conn does. It returns the crypto
// info that the kernel would get, nil if none.
func (f *flight) replay(t testing.TB) (info []byte) {
	fresh := newTap(&discard{}, nil)
	counter := &fresh.counter
	counter.setSecret(bytes.Clone(f.counter.key.secret))
	if f.counter.key.hellos != nil {
		counter.key.hellos.client = f.counter.key.hellos.client
	}
	for _, p := range f.handshake {
		_, _ = fresh.Write(p)
	}
	counter.handshakeDone(f.counter.key.suite)
	for i, p := range f.after {
		counter.setCapture(i == len(f.after)-1)
		_, _ = fresh.Write(p)
	}
	state, err := fresh.offload(new(keyRenewal), func(_ *suite, b []byte) (bool, error) { info = bytes.Clone(b); return false, nil })
	if (state == Offloaded) != (info != nil) || err != nil {
		t.Fatalf("state %v, %v, and a crypto info of %d bytes", state, err, len(info))
	}
	return info
}

// No byte that is changed gives the kernel another key or number than it should
// have, and a last record that is not authentic proves nothing.
func TestFlip(t *testing.T) {
	var flights []flight
	for i := range suites13 {
		for _, tickets := range []int{0, 1, 3} {
			flights = append(flights, scriptFlight(t, &suites13[i], tickets))
		}
	}
	flights = append(flights,
		handshakeFlight(t, "TLS 1.3", curves(tls.X25519), nil),
		handshakeFlight(t, "TLS 1.3, certificate", both(curves(tls.X25519), clientAuth(tls.RequestClientCert)), identified))
	for _, s := range suites12 {
		flights = append(flights, handshakeFlight(t, tls.CipherSuiteName(s.id), keyFor(s.id), func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{s.id}
		}))
	}
	for _, f := range flights {
		t.Run(f.name, f.test)
	}
}

// keyFor gives the server a key for a suite of TLS 1.2.
func keyFor(id uint16) func(*tls.Config) {
	switch id {
	case tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256:
		return certified(rsaIdentity, 0)
	}
	return nil
}

func (f *flight) test(t *testing.T) {
	want := f.replay(t)
	if want == nil {
		t.Fatal("refused although nothing is changed")
	}
	all, number := slices.Concat(f.handshake, f.after), f.number+uint64(len(f.after))
	if _, got, err := fakekernel.ParseInfo(want); got != number || err != nil {
		t.Errorf("number %d, %v; want %d", got, err, number)
	}
	last := lastRecord(all[len(all)-1])
	for i, p := range all {
		for j := range p {
			for _, flip := range []byte{1, 2, 3, 0x80, 0xff} {
				p[j] ^= flip
				got := f.replay(t)
				p[j] ^= flip
				if got != nil && !bytes.Equal(got, want) {
					t.Errorf("write %d, byte %d, flip %#x: another key or number", i, j, flip)
				}
				if got != nil && i == len(all)-1 && j >= last {
					t.Errorf("byte %d of the last record, flip %#x: proved", j-last, flip)
				}
			}
		}
	}
}

// lastRecord returns where the last record of p begins.
func lastRecord(p []byte) (offset int) {
	for rest := p; len(rest) > 0; {
		offset = len(p) - len(rest)
		_, rest, _ = cutRecord(rest)
	}
	return offset
}
