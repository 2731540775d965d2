package ktls

import (
	"bytes"
	"errors"
	"net"
	"reflect"
	"testing"
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

// A script writes records as crypto/tls does to a recorder, for sequences that
// no real handshake makes.
type script struct {
	t       testing.TB
	rec     *recorder
	raw     *discard
	suite   *suite
	hs, app direction
}

func newScript(t testing.TB, s *suite) *script {
	t.Helper()
	sc := &script{t: t, suite: s, raw: &discard{}}
	sc.hs.set(t, s, bytes.Repeat([]byte{1}, s.secretLen))
	sc.app.set(t, s, bytes.Repeat([]byte{2}, s.secretLen))
	sc.rec = &recorder{Conn: sc.raw, flush: func() {}, keepHandshake: true, capture: true}
	sc.rec.setSecret(labelHandshakeSecret, bytes.Clone(sc.hs.secret))
	sc.rec.setSecret(labelTrafficSecret, bytes.Clone(sc.app.secret))
	return sc
}

func (sc *script) plain(typ byte)      { sc.raw1([]byte{typ, 3, 3, 0, 1, 1}) }
func (sc *script) done()               { sc.rec.handshakeDone(sc.suite) }
func (sc *script) hsRecord()           { sc.sealed(&sc.hs, recordHandshake, "finished") }
func (sc *script) ticket()             { sc.sealed(&sc.app, recordHandshake, "ticket") }
func (sc *script) data(content string) { sc.sealed(&sc.app, recordApplicationData, content) }
func (sc *script) alert(description byte) {
	sc.sealed(&sc.app, recordAlert, string([]byte{1, description}))
}
func (sc *script) keyUpdate() {
	sc.sealed(&sc.app, recordHandshake, "\x18\x00\x00\x01\x00")
	sc.app.update(sc.t, sc.suite)
}

func (sc *script) sealed(d *direction, typ recordType, content string) {
	sc.raw1(seal(d.key.aead, [12]byte(d.key.iv), d.sequence, byte(typ), []byte(content)))
	d.sequence++
}

func (sc *script) raw1(p []byte) { _, _ = sc.rec.Write(p) }

func TestProof(t *testing.T) {
	flight := func(sc *script) { sc.plain(22); sc.plain(20); sc.hsRecord(); sc.hsRecord() }
	for _, tt := range []struct {
		name   string
		run    func(sc *script)
		reason Reason
	}{
		{"no ticket", func(sc *script) { flight(sc); sc.done() }, Offloaded},
		{"one ticket", func(sc *script) { flight(sc); sc.ticket(); sc.done() }, Offloaded},
		{"three tickets", func(sc *script) { flight(sc); sc.ticket(); sc.ticket(); sc.ticket(); sc.done() }, Offloaded},
		{"hello retry request", func(sc *script) { sc.plain(22); sc.plain(20); flight(sc); sc.done() }, Offloaded},
		{"data", func(sc *script) { flight(sc); sc.ticket(); sc.done(); sc.data("x") }, Offloaded},
		{"data like an alert", func(sc *script) { flight(sc); sc.ticket(); sc.done(); sc.data("xx") }, Offloaded},
		{"data like a KeyUpdate", func(sc *script) { flight(sc); sc.ticket(); sc.done(); sc.data("\x18\x00\x00\x01\x00") }, Offloaded},
		{"KeyUpdate last", func(sc *script) { flight(sc); sc.ticket(); sc.done(); sc.data("x"); sc.keyUpdate() }, Offloaded},
		{"two KeyUpdates and data", func(sc *script) { flight(sc); sc.done(); sc.keyUpdate(); sc.keyUpdate(); sc.data("xx") }, Offloaded},
		{"several records in one write", func(sc *script) {
			flight(sc)
			sc.done()
			one, two := sc.app, sc.app
			two.sequence++
			sc.raw1(append(seal(one.key.aead, [12]byte(one.key.iv), 0, 23, []byte("one")),
				seal(two.key.aead, [12]byte(two.key.iv), 1, 23, []byte("two"))...))
			sc.app.sequence = 2
		}, Offloaded},

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
		{"alert at the end of the handshake", func(sc *script) { flight(sc); sc.alert(0); sc.done() }, Closing},
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

		{"no secret", func(sc *script) { flight(sc); sc.done(); sc.rec.secret = nil; sc.data("x") }, NoSecret},
		{"no secret and data like an alert", func(sc *script) { flight(sc); sc.done(); sc.rec.secret = nil; sc.data("xx") }, NoSecret},
		{"short secret", func(sc *script) { flight(sc); sc.done(); sc.rec.secret = sc.rec.secret[:16]; sc.data("x") }, NoSecret},
		{"wrong secret", func(sc *script) { flight(sc); sc.done(); sc.rec.secret[0] ^= 1; sc.data("x") }, SequenceUnproven},
		{"no handshake secret", func(sc *script) { flight(sc); sc.done(); sc.rec.hsSecret = nil }, SequenceUnproven},
		{"no handshake", func(sc *script) { flight(sc) }, Cipher},
		{"forgotten", func(sc *script) { flight(sc); sc.done(); sc.data("x"); sc.rec.forget() }, NoSecret},
	} {
		for i := range suites {
			t.Run(tt.name+"/"+suites[i].name, func(t *testing.T) {
				sc := newScript(t, &suites[i])
				tt.run(sc)
				var info []byte
				reason, err := sc.rec.move(func(b []byte) error { info = bytes.Clone(b); return nil })
				if reason != tt.reason || err != nil {
					t.Fatalf("reason %v, %v; want %v", reason, err, tt.reason)
				}
				if reason != Offloaded {
					if info != nil || sc.rec.moved.Load() {
						t.Error("installed all the same")
					}
					return
				}
				// What the kernel gets must continue the script exactly.
				aead, iv, sequence, err := parseInfo(info)
				if err != nil {
					t.Fatal(err)
				}
				if sequence != sc.app.sequence {
					t.Errorf("number %d, want %d", sequence, sc.app.sequence)
				}
				if _, _, ok := sc.app.key.open(seal(aead, iv, sequence, 23, []byte("next")), sc.app.sequence); !ok {
					t.Error("the key is wrong")
				}
			})
		}
	}
}

// What crypto/tls writes after the switch is opened under its own key and number.
func TestDivert(t *testing.T) {
	for i := range suites {
		sc := newScript(t, &suites[i])
		sc.hsRecord()
		sc.ticket()
		sc.done()
		sc.data("x")
		if reason, _ := sc.rec.move(func([]byte) error { return nil }); reason != Offloaded {
			t.Fatal(reason)
		}
		sc.raw.err = errors.New("written to the socket")
		sc.alert(0)
		sc.alert(0)
		sc.keyUpdate()
		sc.alert(0)
		sc.alert(20)
		got, dead := sc.rec.takePending()
		want := []control{{21, []byte{1, 0}}, {21, []byte{1, 0}}, {21, []byte{1, 0}}, {21, []byte{1, 20}}}
		if !reflect.DeepEqual(got, want) || dead != errAlertSent {
			t.Errorf("%s: %v, %v; want %v", suites[i].name, got, dead, want)
		}
		if !sc.rec.retired.Load() || sc.rec.waiting.Load() {
			t.Error("not retired, or waiting still")
		}
	}
}

// A kernel that refuses leaves crypto/tls's writes as they were.
func TestRefusedInstall(t *testing.T) {
	sc := newScript(t, &suites[0])
	sc.hsRecord()
	sc.done()
	refused := errors.New("refused")
	reason, err := sc.rec.move(func([]byte) error { return refused })
	if reason != KernelRefused || err != refused {
		t.Errorf("move = %v, %v", reason, err)
	}
	if n, err := sc.rec.Write([]byte("not a record")); n != 12 || err != nil {
		t.Errorf("Write = %d, %v", n, err)
	}
}
