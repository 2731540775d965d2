package ktls

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/fakekernel"
)

// discard is a connection whose writes succeed, or are cut short.
type discard struct {
	net.Conn
	short bool
	err   error
}

func (d *discard) Write(p []byte) (int, error) {
	if d.short {
		return len(p) - 1, d.err
	}
	return len(p), d.err
}

// A script writes records as crypto/tls does to a tap, for sequences that
// no real handshake makes.
type script struct {
	t       testing.TB
	tap     *tap
	raw     *discard
	suite   *suite
	hs, app direction
}

func newScript(t testing.TB, s *suite) *script {
	t.Helper()
	sc := &script{t: t, suite: s, raw: &discard{}}
	sc.hs.set(t, s, bytes.Repeat([]byte{1}, s.secretLen))
	sc.app.set(t, s, bytes.Repeat([]byte{2}, s.secretLen))
	sc.tap = newTap(sc.raw, func() {})
	sc.counter().capture = true
	if s.version == tls.VersionTLS12 {
		sc.counter().read(testHello(handshakeClientHello))
		sc.raw1(testHello(handshakeServerHello))
	}
	sc.counter().setSecret(bytes.Clone(sc.app.secret))
	return sc
}

func (sc *script) counter() *recordCounter { return &sc.tap.counter }

func (sc *script) plain(typ byte)      { sc.raw1([]byte{typ, 3, 3, 0, 1, 1}) }
func (sc *script) done()               { sc.counter().handshakeDone(sc.suite) }
func (sc *script) hsRecord()           { sc.sealed(&sc.hs, recordHandshake, "finished") }
func (sc *script) ticket()             { sc.sealed(&sc.app, recordHandshake, "ticket") }
func (sc *script) data(content string) { sc.sealed(&sc.app, recordApplicationData, content) }
func (sc *script) alert(description byte) {
	sc.sealed(&sc.app, recordAlert, string([]byte{1, description}))
}
func (sc *script) finished() { sc.sealed(&sc.app, recordHandshake, "finished") } // of TLS 1.2
func (sc *script) keyUpdate() {
	sc.sealed(&sc.app, recordHandshake, "\x18\x00\x00\x01\x00")
	sc.app.update(sc.t, sc.suite)
}

func (sc *script) sealed(d *direction, typ recordType, content string) {
	sc.raw1(sealerOf(d.key).Seal(d.sequence, byte(typ), []byte(content)))
	d.sequence++
}

func (sc *script) raw1(p []byte) { _, _ = sc.tap.Write(p) }

func TestProof(t *testing.T) {
	flight := func(sc *script) { sc.plain(22); sc.plain(20); sc.hsRecord(); sc.hsRecord() }
	for _, tt := range []struct {
		name  string
		run   func(sc *script)
		state State
	}{
		{"no ticket", func(sc *script) { flight(sc); sc.done(); sc.data("x") }, Offloaded},
		{"one ticket", func(sc *script) { flight(sc); sc.ticket(); sc.done(); sc.data("x") }, Offloaded},
		{"three tickets", func(sc *script) {
			flight(sc)
			sc.ticket()
			sc.ticket()
			sc.ticket()
			sc.done()
			sc.data("x")
		}, Offloaded},
		{"hello retry request", func(sc *script) { sc.plain(22); sc.plain(20); flight(sc); sc.done(); sc.data("x") }, Offloaded},
		{"data like an alert", func(sc *script) { flight(sc); sc.ticket(); sc.done(); sc.data("xx") }, Offloaded},
		{"data like a KeyUpdate", func(sc *script) { flight(sc); sc.ticket(); sc.done(); sc.data("\x18\x00\x00\x01\x00") }, Offloaded},
		{"KeyUpdate last", func(sc *script) { flight(sc); sc.ticket(); sc.done(); sc.data("x"); sc.keyUpdate() }, Offloaded},
		{"two KeyUpdates and data", func(sc *script) { flight(sc); sc.done(); sc.keyUpdate(); sc.keyUpdate(); sc.data("xx") }, Offloaded},
		{"several records in one write", func(sc *script) {
			flight(sc)
			sc.done()
			key := sealerOf(sc.app.key)
			sc.raw1(append(key.Seal(0, 23, []byte("one")), key.Seal(1, 23, []byte("two"))...))
			sc.app.sequence = 2
		}, Offloaded},

		// Only what was written after the handshake proves something.
		{"no data", func(sc *script) { flight(sc); sc.done() }, SequenceUnproven},
		{"no data behind a ticket", func(sc *script) { flight(sc); sc.ticket(); sc.done() }, SequenceUnproven},
		{"alert at the end of the handshake", func(sc *script) { flight(sc); sc.alert(0); sc.done() }, SequenceUnproven},
		{"nothing encrypted", func(sc *script) { sc.plain(22); sc.done() }, SequenceUnproven},
		{"a number is missing", func(sc *script) { flight(sc); sc.done(); sc.app.sequence = 9; sc.data("x") }, SequenceUnproven},
		{"a handshake number is missing", func(sc *script) { flight(sc); sc.hs.sequence = 9; sc.hsRecord(); sc.done() }, SequenceUnproven},
		{"plaintext after encrypted", func(sc *script) { flight(sc); sc.plain(22); sc.done(); sc.data("x") }, SequenceUnproven},
		{"plaintext after a KeyUpdate", func(sc *script) { flight(sc); sc.done(); sc.keyUpdate(); sc.plain(20); sc.data("x") }, SequenceUnproven},
		{"half a record", func(sc *script) { flight(sc); sc.done(); sc.raw1([]byte{23, 3, 3, 0, 9}); sc.data("x") }, SequenceUnproven},
		{"unknown record like an alert", func(sc *script) { flight(sc); sc.done(); sc.sealed(&sc.hs, 23, "xx"); sc.data("x") }, SequenceUnproven},
		{"unknown handshake message", func(sc *script) { flight(sc); sc.done(); sc.sealed(&sc.app, 22, "\x19\x00\x00\x01\x00"); sc.data("x") }, SequenceUnproven},
		{"unknown type", func(sc *script) { flight(sc); sc.done(); sc.sealed(&sc.app, 24, "xx"); sc.data("x") }, SequenceUnproven},

		{"alert", func(sc *script) { flight(sc); sc.done(); sc.alert(20); sc.data("x") }, Closing},
		{"close_notify", func(sc *script) { flight(sc); sc.done(); sc.data("x"); sc.alert(0) }, Closing},
		{"short write", func(sc *script) {
			flight(sc)
			sc.done()
			sc.raw.short = true
			sc.data("x")
			sc.raw.short = false
			sc.data("x")
		}, Closing},
		{"failed write", func(sc *script) {
			flight(sc)
			sc.done()
			sc.raw.err = errors.New("failed")
			sc.data("x")
			sc.raw.err = nil
			sc.data("x")
		}, Closing},

		{"no secret", func(sc *script) { flight(sc); sc.done(); sc.counter().key.secret = nil; sc.data("x") }, NoSecret},
		{"no secret and data like an alert", func(sc *script) { flight(sc); sc.done(); sc.counter().key.secret = nil; sc.data("xx") }, NoSecret},
		{"short secret", func(sc *script) {
			flight(sc)
			sc.done()
			sc.counter().key.secret = sc.counter().key.secret[:16]
			sc.data("x")
		}, NoSecret},
		{"wrong secret", func(sc *script) { flight(sc); sc.done(); sc.counter().key.secret[0] ^= 1; sc.data("x") }, SequenceUnproven},
		{"no handshake", func(sc *script) { flight(sc) }, Cipher},
		{"forgotten", func(sc *script) { flight(sc); sc.done(); sc.data("x"); sc.tap.forget() }, NoSecret},
	} {
		for i := range suites13 {
			t.Run(tt.name+"/"+suites13[i].String(), func(t *testing.T) { testProof(t, &suites13[i], tt.run, tt.state) })
		}
	}
}

func TestProof12(t *testing.T) {
	flight := func(sc *script) { sc.plain(22); sc.plain(20); sc.finished() }
	for _, tt := range []struct {
		name  string
		run   func(sc *script)
		state State
	}{
		{"one record", func(sc *script) { flight(sc); sc.done(); sc.data("x") }, Offloaded},
		{"data", func(sc *script) { flight(sc); sc.done(); sc.data("x"); sc.data("xx"); sc.data("\x18\x00\x00\x01\x00") }, Offloaded},

		{"no data", func(sc *script) { flight(sc); sc.done() }, SequenceUnproven},
		{"nothing encrypted", func(sc *script) { sc.plain(20); sc.done() }, SequenceUnproven},
		{"no ChangeCipherSpec", func(sc *script) { sc.finished(); sc.done() }, SequenceUnproven},
		{"a number is missing", func(sc *script) { flight(sc); sc.done(); sc.app.sequence = 9; sc.data("x") }, SequenceUnproven},
		{"two ChangeCipherSpecs", func(sc *script) { flight(sc); sc.plain(20); sc.done(); sc.data("x") }, SequenceUnproven},
		{"handshake message after the handshake", func(sc *script) { flight(sc); sc.done(); sc.finished(); sc.data("x") }, SequenceUnproven},
		{"ChangeCipherSpec after the handshake", func(sc *script) { flight(sc); sc.done(); sc.plain(20); sc.data("x") }, SequenceUnproven},
		{"data in the handshake", func(sc *script) { flight(sc); sc.data("x"); sc.plain(22); sc.done(); sc.data("x") }, SequenceUnproven},
		{"half a record", func(sc *script) { flight(sc); sc.done(); sc.raw1([]byte{23, 3, 3, 0, 9}); sc.data("x") }, SequenceUnproven},

		{"alert", func(sc *script) { flight(sc); sc.done(); sc.alert(20); sc.data("x") }, Closing},
		{"close_notify", func(sc *script) { flight(sc); sc.done(); sc.data("x"); sc.alert(0) }, Closing},
		{"short write", func(sc *script) {
			flight(sc)
			sc.done()
			sc.raw.short = true
			sc.data("x")
		}, Closing},

		{"no secret", func(sc *script) { flight(sc); sc.done(); sc.counter().key.secret = nil; sc.data("x") }, NoSecret},
		{"short secret", func(sc *script) {
			flight(sc)
			sc.done()
			sc.counter().key.secret = sc.counter().key.secret[:47]
			sc.data("x")
		}, NoSecret},
		{"wrong secret", func(sc *script) { flight(sc); sc.done(); sc.counter().key.secret[0] ^= 1; sc.data("x") }, SequenceUnproven},
		{"no client random", func(sc *script) { flight(sc); sc.done(); sc.counter().key.hellos.client = helloReader{}; sc.data("x") }, SequenceUnproven},
		{"other server random", func(sc *script) { flight(sc); sc.done(); sc.counter().key.hellos.server.message[20] ^= 1; sc.data("x") }, SequenceUnproven},
		{"no handshake", func(sc *script) { flight(sc) }, Cipher},
	} {
		for i := range suites12 {
			t.Run(tt.name+"/"+tls.CipherSuiteName(suites12[i].id), func(t *testing.T) { testProof(t, &suites12[i], tt.run, tt.state) })
		}
	}
}

// testProof proves what a script has written, and checks what the kernel gets.
func testProof(t *testing.T, s *suite, run func(*script), want State) {
	sc := newScript(t, s)
	run(sc)
	var info []byte
	state, err := sc.tap.offload(new(keyRenewal), func(got *suite, b []byte) (bool, error) {
		if got != s {
			t.Errorf("suite %v, want %v", got, s)
		}
		info = bytes.Clone(b)
		return false, nil
	})
	if state != want || err != nil {
		t.Fatalf("state %v, %v; want %v", state, err, want)
	}
	if state != Offloaded {
		if info != nil || sc.tap.relay.Load() != nil {
			t.Error("the kernel has the key all the same")
		}
		return
	}
	// What the kernel gets must continue the script exactly.
	key, sequence, err := fakekernel.ParseInfo(info)
	if err != nil {
		t.Fatal(err)
	}
	if sequence != sc.app.sequence {
		t.Errorf("number %d, want %d", sequence, sc.app.sequence)
	}
	if _, _, ok := sc.app.key.open(key.Seal(sequence, 23, []byte("next")), sc.app.sequence); !ok {
		t.Error("the key is wrong")
	}
}

// A kernel that refuses leaves crypto/tls's writes as they were.
func TestKeyRefused(t *testing.T) {
	sc := newScript(t, &suites[0])
	sc.hsRecord()
	sc.done()
	sc.data("x")
	refused := errors.New("refused")
	state, err := sc.tap.offload(new(keyRenewal), func(*suite, []byte) (bool, error) { return false, refused })
	if state != NotNeeded || err != refused {
		t.Errorf("offload = %v, %v", state, err)
	}
	if n, err := sc.tap.Write([]byte("not a record")); n != 12 || err != nil {
		t.Errorf("Write = %d, %v", n, err)
	}
}
