package ktls

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"reflect"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// wantControl checks the next record that the peer gets.
func (p *peer) wantControl(t testing.TB, typ recordType, content ...byte) {
	t.Helper()
	gotType, got, err := p.next()
	if gotType != typ || !bytes.Equal(got, content) || err != nil {
		t.Errorf("record %d, %x, %v; want %d, %x", gotType, got, err, typ, content)
	}
}

// An alert between the proving write and the offload prevents it.
func TestAlertBeforeOffload(t *testing.T) {
	s := newFakeServer(t, serverConfig(), onDemand, nil)
	conn, p, k := s.connectPeer(t)
	conn.tap.counter.setCapture(true)
	wait := receiving(t, p, []byte("proof"))
	if _, err := conn.tls.Write([]byte("proof")); err != nil {
		t.Fatal(err)
	}
	wait()
	p.garbage()
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("garbage was read")
	}
	conn.lock()
	conn.offload()
	conn.unlock()
	wantState(t, conn, Closing)
	s.wantDecided(t, conn, Closing, nil)
	p.wantControl(t, recordAlert, 2, 20)
	if _, err := conn.Write([]byte("x")); err == nil {
		t.Error("Write after a fatal alert succeeded")
	}
	k.wantSent(t, 0, 0)
}

// Each alert that crypto/tls may raise after the offload reaches the peer as that
// alert, and nothing follows it.
func TestAlertAfterOffload(t *testing.T) {
	const (
		unexpectedMessage = 10
		badRecordMAC      = 20
		recordOverflow    = 22
		decodeError       = 50
		protocolVersion   = 70
		noRenegotiation   = 100
	)
	clientHello := append([]byte{1, 0, 0, 38, 3, 3}, make([]byte, 36)...)
	tooLong := make([]byte, maxPayload+1)
	for _, tt := range []struct {
		name    string
		version uint16
		send    func(*peer)
		want    byte
	}{
		{"not authentic", 13, func(p *peer) { p.garbage() }, badRecordMAC},
		{"too long", 13, func(p *peer) { p.write(recordApplicationData, tooLong) }, recordOverflow},
		{"too long for a record", 13, func(p *peer) { p.raw(23, 3, 3, 0xff, 0xff) }, recordOverflow},
		{"wrong record version", 13, func(p *peer) { p.raw(23, 9, 9, 0, 40) }, protocolVersion},
		{"unknown record type", 13, func(p *peer) { p.write(99, []byte("x")) }, unexpectedMessage},
		{"plaintext", 13, func(p *peer) { p.raw(22, 3, 3, 0, 1, 1) }, badRecordMAC},
		{"ClientHello", 13, func(p *peer) { p.write(recordHandshake, clientHello) }, unexpectedMessage},
		{"Finished", 13, func(p *peer) { p.write(recordHandshake, append([]byte{20, 0, 0, 32}, make([]byte, 32)...)) }, unexpectedMessage},
		{"KeyUpdate with a wrong value", 13, func(p *peer) { p.write(recordHandshake, []byte{24, 0, 0, 1, 7}) }, decodeError},
		{"unknown handshake message", 13, func(p *peer) { p.write(recordHandshake, []byte{77, 0, 0, 0}) }, unexpectedMessage},
		{"alert of a wrong length", 13, func(p *peer) { p.write(recordAlert, []byte{2}) }, unexpectedMessage},

		{"not authentic", 12, func(p *peer) { p.raw(append([]byte{23, 3, 3, 0, 40}, make([]byte, 40)...)...) }, badRecordMAC},
		{"too long", 12, func(p *peer) { p.write(recordApplicationData, tooLong) }, recordOverflow},
		{"wrong record version", 12, func(p *peer) { p.raw(23, 9, 9, 0, 40) }, protocolVersion},
		{"unknown record type", 12, func(p *peer) { p.write(99, []byte("x")) }, unexpectedMessage},
		{"renegotiation", 12, func(p *peer) { p.write(recordHandshake, clientHello) }, unexpectedMessage},
		{"HelloRequest", 12, func(p *peer) { p.write(recordHandshake, []byte{0, 0, 0, 0}) }, noRenegotiation},
		{"ChangeCipherSpec", 12, func(p *peer) { p.write(recordChangeCipherSpec, []byte{1}) }, unexpectedMessage},
	} {
		t.Run(fmt.Sprintf("1.%d/%s", tt.version-10, tt.name), func(t *testing.T) {
			s := newFakeServer(t, serverConfig(), offloadAll, nil)
			conn, p, k := s.connectPeerOf(t, map[uint16]uint16{12: tls.VersionTLS12, 13: tls.VersionTLS13}[tt.version])
			wantState(t, conn, Offloaded)
			transfer(t, conn, p, testutil.Body(70_000))
			tt.send(p)
			if _, err := conn.Read(make([]byte, 1)); err == nil {
				t.Error("Read succeeded")
			}
			typ, content, err := p.next()
			if typ != recordAlert || len(content) != 2 || content[1] != tt.want || err != nil {
				t.Errorf("record %d, %x, %v; want alert %d", typ, content, err, tt.want)
			}
			_, err = conn.Write([]byte("x"))
			testutil.WantError(t, err, errAlertSent)
			_, err = conn.SendFile(nil, filerange.Segment{File: testutil.OpenFile(t, testutil.Body(1000)), Len: 1000})
			testutil.WantError(t, err, errAlertSent)
			testutil.WantError(t, conn.CloseWrite(), errAlertSent)
			_, err = conn.tap.Write([]byte("x")) // crypto/tls has nothing to add
			testutil.WantError(t, err, errAlertSent)
			conn.Close()
			if typ, content, err := p.next(); err != io.EOF {
				t.Errorf("after the alert: %d, %x, %v", typ, content, err)
			}
			k.wantSent(t, 70_000, 0)
			wantZeroed(t, conn)
		})
	}
}

// While a file is sent, an alert goes out between two rounds, or after the last,
// and never into a record that is open.
func TestAlertDuringFile(t *testing.T) {
	const total, round = 300_000, 50_000
	for _, tt := range []struct {
		name       string
		at         int64 // bytes of the file that are sent before the alert comes
		sent, file int
		err        error
	}{
		{"between", 2 * round, 3*round + controlGap, 3 * round, errAlertSent},
		{"last", 5 * round, total, total, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var inject func()
			s := newFakeServer(t, serverConfig(), offloadAll, func(k *fakeKernel) {
				k.MaxFile = round // leaves records open
				k.beforeFile = func() {
					if k.Counts().Files == tt.at {
						inject()
					}
				}
			})
			conn, p, k := s.connectPeer(t)
			inject = func() {
				p.garbage()
				if _, err := conn.Read(make([]byte, 1)); err == nil {
					t.Error("garbage was read")
				}
			}
			body := testutil.Body(total)
			received := make(chan []byte, 1)
			go func() {
				b, err := io.ReadAll(p)
				testutil.WantError(t, err, tls.AlertError(20))
				received <- b
			}()
			noFirstRecords(conn)
			sent, err := conn.SendFile([]byte("header"), filerange.Segment{File: testutil.OpenFile(t, body), Len: total})
			if sent != int64(tt.sent) {
				t.Errorf("%d bytes sent, want %d", sent, tt.sent)
			}
			testutil.WantError(t, err, tt.err)
			testutil.SameBody(t, <-received, append([]byte("header"), body[:sent]...))
			k.wantSent(t, len("header")+tt.sent, tt.file)
			_, err = conn.Write([]byte("x"))
			testutil.WantError(t, err, errAlertSent)
		})
	}
}

// An alert that nobody has sent yet goes out by Close, in the place of close_notify.
func TestAlertAtClose(t *testing.T) {
	for _, full := range []bool{false, true} {
		s := newFakeServer(t, serverConfig(), offloadAll, nil)
		conn, p, k := s.connectPeer(t)
		transfer(t, conn, p, testutil.Body(70_000))
		conn.out.Lock() // as if something were being sent
		p.garbage()
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("garbage was read")
		}
		conn.out.Unlock()
		k.full.Store(full)
		conn.Close()
		k.full.Store(false)
		_, err := io.ReadAll(p)
		testutil.WantError(t, err, tls.AlertError(20))
	}
}

// A record that crypto/tls can't have written ends the sending.
func TestForeignRecord(t *testing.T) {
	for _, tt := range []struct{ name, record string }{
		{"not authentic", "\x17\x03\x03\x00\x20" + string(make([]byte, 32))},
		{"half a record", "\x17\x03\x03\x00\x20"},
		{"plaintext alert", "\x15\x03\x03\x00\x02\x02\x14"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newFakeServer(t, serverConfig(), offloadAll, nil)
			conn, p, k := s.connectPeer(t)
			transfer(t, conn, p, testutil.Body(70_000))
			n, err := conn.tap.Write([]byte(tt.record))
			if n != 0 {
				t.Errorf("%d bytes accepted", n)
			}
			testutil.WantError(t, err, errForeignRecord)
			_, err = conn.Write([]byte("x"))
			testutil.WantError(t, err, errForeignRecord)
			_, err = conn.tap.Write([]byte(tt.record))
			testutil.WantError(t, err, errForeignRecord)
			conn.Close()
			if b, err := io.ReadAll(p); len(b) > 0 || err != io.ErrUnexpectedEOF {
				t.Errorf("the peer got %d bytes, %v; want the end without close_notify", len(b), err)
			}
			k.wantSent(t, 70_000, 0)
		})
	}
}

// What crypto/tls writes after the offload is opened under its own key and number.
func TestRelay(t *testing.T) {
	alert := func(description byte) control { return control{recordAlert, []byte{1, description}} }
	update := control{recordHandshake, []byte{24, 0, 0, 1, 0}}
	for _, tt := range []struct {
		name    string
		suites  []suite
		rekey   bool
		run     func(*script)
		want    []control
		dead    error
		retired bool
	}{
		{"alerts", suites, true, func(sc *script) { sc.alert(0); sc.alert(0); sc.alert(20) },
			[]control{alert(0), alert(0), alert(20)}, errAlertSent, false},
		{"KeyUpdate", suites13, true, func(sc *script) { sc.keyUpdate(); sc.alert(0); sc.alert(20) },
			[]control{update, alert(0), alert(20)}, errAlertSent, false},
		{"KeyUpdates", suites13, true, func(sc *script) { sc.keyUpdate(); sc.keyUpdate(); sc.keyUpdate(); sc.alert(0) },
			[]control{update, alert(0)}, nil, false},
		{"KeyUpdates without rekey", suites13, false, func(sc *script) { sc.keyUpdate(); sc.alert(0); sc.keyUpdate(); sc.alert(20) },
			[]control{alert(0), alert(20)}, errAlertSent, true},
		{"KeyUpdate in TLS 1.2", suites12, true, func(sc *script) { sc.sealed(&sc.app, recordHandshake, "\x18\x00\x00\x01\x00") },
			nil, errForeignRecord, false},
	} {
		for i := range tt.suites {
			s := &tt.suites[i]
			t.Run(tt.name+"/"+tls.CipherSuiteName(s.id), func(t *testing.T) {
				sc := newScript(t, s)
				sc.plain(20)
				if s.version == tls.VersionTLS13 {
					sc.hsRecord()
				}
				sc.ticket() // in TLS 1.2 as good as Finished
				sc.done()
				sc.data("x")
				var renewal keyRenewal
				if state, _ := sc.tap.offload(&renewal, func(s *suite, _ []byte) (bool, error) {
					return tt.rekey && s.version == tls.VersionTLS13, nil
				}); state != Offloaded {
					t.Fatal(state)
				}
				sc.raw.err = errors.New("written to the socket")
				tt.run(sc)
				relay := sc.tap.relay.Load()
				got, dead := relay.take()
				if !reflect.DeepEqual(got, tt.want) || dead != tt.dead {
					t.Errorf("%v, %v; want %v, %v", got, dead, tt.want, tt.dead)
				}
				if retired := renewal.retired.Load(); retired != tt.retired || relay.due() {
					t.Errorf("retired %v, want %v; or waiting still", retired, tt.retired)
				}
			})
		}
	}
}
