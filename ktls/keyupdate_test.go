package ktls

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A KeyUpdate after the offload is answered by one under the old key, and what
// follows is under the new one.
func TestKeyUpdateAfterOffload(t *testing.T) {
	for _, tt := range []struct {
		name          string
		request       bool
		together      int // KeyUpdates that come at once
		rounds, wants int
	}{
		{"one", true, 1, 1, 1},
		{"again and again", true, 1, 20, 20},
		{"several at once", true, 5, 3, 3}, // one answers for all
		{"without request", false, 3, 3, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := rekeyServer(t, true, nil)
			conn, p, k := s.connectPeer(t)
			for range tt.rounds {
				transfer(t, conn, p, testutil.Body(70_000))
				secret, sending := conn.tap.relay.Load().key.secret, conn.renewal.secret
				// The writer is busy until all of them are read.
				conn.out.Lock()
				for range tt.together {
					p.keyUpdate(tt.request)
				}
				readBack(t, conn, p)
				conn.unlock()
				if tt.request {
					wantZero(t, "crypto/tls's secret before the KeyUpdate", secret)
					wantZero(t, "the kernel's secret before the KeyUpdate", sending)
				}
			}
			transfer(t, conn, p, testutil.Body(70_001))
			if k.Counts().Rekeys != tt.wants {
				t.Errorf("%d rekeys, want %d", k.Counts().Rekeys, tt.wants)
			}
			if tt.wants > 0 {
				wantZero(t, "crypto info", k.lastInfo)
			}
			if conn.Retired() {
				t.Error("retired")
			}
			conn.Close()
			wantEnd(t, p)
			wantZeroed(t, conn)
		})
	}
}

// While a file is sent, the key changes between two records.
func TestKeyUpdateDuringFile(t *testing.T) {
	const total, round = 900_000, 50_000
	for _, rekey := range []bool{true, false} {
		var update func()
		s := rekeyServer(t, rekey, func(k *fakeKernel) {
			k.MaxFile = round // leaves records open
			k.beforeFile = func() { update() }
		})
		conn, p, k := s.connectPeer(t)
		updates := 0
		update = func() {
			if updates < 10 {
				updates++
				p.keyUpdate(true)
				readBack(t, conn, p)
			}
		}
		body := testutil.Body(total)
		wait := receiving(t, p, append([]byte("header"), body...))
		if n, err := conn.SendFile([]byte("header"), filerange.Segment{File: testutil.OpenFile(t, body), Len: total}); n != total || err != nil {
			t.Errorf("SendFile = %d, %v", n, err)
		}
		wait()
		want := 0
		if rekey {
			want = 10
		}
		if k.Counts().Rekeys != want {
			t.Errorf("%d rekeys, want %d", k.Counts().Rekeys, want)
		}
		conn.Close()
		wantEnd(t, p)
	}
}

// An alert after a KeyUpdate is opened under crypto/tls's new key and sent under
// the kernel's, new or not.
func TestAlertAfterKeyUpdate(t *testing.T) {
	for _, rekey := range []bool{true, false} {
		s := rekeyServer(t, rekey, nil)
		conn, p, _ := s.connectPeer(t)
		p.keyUpdate(true)
		p.keyUpdate(true)
		p.garbage()
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("garbage was read")
		}
		// The session ticket, which is unread, and our own KeyUpdates.
		typ, content, err := p.next()
		for typ == recordHandshake && err == nil {
			typ, content, err = p.next()
		}
		if typ != recordAlert || !bytes.Equal(content, []byte{2, 20}) || err != nil {
			t.Errorf("record %d, %x, %v; want bad_record_mac", typ, content, err)
		}
	}
}

// Go's own limit ends a flood of KeyUpdates without data between; each before
// that costs no more than the flag that an answer is due.
func TestKeyUpdateFlood(t *testing.T) {
	for _, rekey := range []bool{true, false} {
		s := rekeyServer(t, rekey, nil)
		conn, p, k := s.connectPeer(t)
		conn.out.Lock() // a writer that is stuck
		go func() {
			for range 10_000 {
				record := sealerOf(p.out.key).Seal(p.out.sequence, 22, []byte{24, 0, 0, 1, 1})
				if _, err := p.conn.Write(record); err != nil {
					return // the server has closed the connection
				}
				p.out.update(t, p.suite)
			}
		}()
		for err := error(nil); err == nil; {
			_, err = conn.Read(make([]byte, 1))
		}
		relay := conn.tap.relay.Load()
		relay.mu.Lock()
		if n := len(relay.pending); n > 2 {
			t.Errorf("%d records wait", n)
		}
		relay.mu.Unlock()
		conn.unlock()
		if _, err := conn.Write([]byte("x")); !errors.Is(err, errAlertSent) {
			t.Errorf("Write: %v, want that an alert was sent", err)
		}
		if k.Counts().Rekeys > 1 {
			t.Errorf("%d rekeys", k.Counts().Rekeys)
		}
		if last := k.controls[len(k.controls)-1]; last.typ != recordAlert || !bytes.Equal(last.body, []byte{2, byte(alertUnexpectedMessage)}) {
			t.Errorf("the end was %v, want the alert unexpected_message", last)
		}
		conn.Close()
	}
}

const alertUnexpectedMessage tls.AlertError = 10

// The limit that README tells of: 16 KeyUpdates between data are fine.
func TestKeyUpdatesBetweenData(t *testing.T) {
	for _, rekey := range []bool{true, false} {
		s := rekeyServer(t, rekey, nil)
		conn, p, _ := s.connectPeer(t)
		for range 3 {
			for range 16 {
				p.keyUpdate(true)
			}
			readBack(t, conn, p)
		}
		for range 17 {
			p.keyUpdate(true)
		}
		if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil || err == io.EOF {
			t.Errorf("after 17 KeyUpdates: %d, %v", n, err)
		}
		if _, err := conn.Write([]byte("x")); !errors.Is(err, errAlertSent) {
			t.Errorf("Write: %v, want that an alert was sent", err)
		}
		conn.Close()
	}
}

// KeyUpdates that come while the connection is offloaded, at any moment.
func TestKeyUpdateAtOffload(t *testing.T) {
	for i := range 200 {
		rekey := i%2 == 0
		s := newFakeServer(t, serverConfig(), onDemand, nil)
		s.support.Rekey = rekey
		conn, p, k := s.connectPeer(t)
		const updates = 4
		read := make(chan error, 1)
		go func() { // as a server reads while it answers
			_, err := io.ReadFull(conn, make([]byte, updates))
			read <- err
		}()
		go func() {
			for range updates {
				p.keyUpdate(true)
				p.write(recordApplicationData, []byte("x"))
			}
		}()
		body := testutil.Body(3 * 70_000)
		wait := receiving(t, p, body)
		for n, part := range [][]byte{body[:5], body[5:70_000], body[70_000:140_000], body[140_000:]} {
			if n == i%4 {
				conn.Offload()
			}
			if _, err := conn.Write(part); err != nil {
				t.Fatal(err)
			}
		}
		wait()
		if err := <-read; err != nil {
			t.Fatal("Read:", err)
		}
		wantState(t, conn, Offloaded)
		if rekey && conn.Retired() || !rekey && k.Counts().Rekeys > 0 {
			t.Errorf("rekey %v: %d new keys, retired %v", rekey, k.Counts().Rekeys, conn.Retired())
		}
		conn.Close()
		wantEnd(t, p)
	}
}

// A KeyUpdate before the offload is followed.
func TestKeyUpdateBeforeOffload(t *testing.T) {
	for _, tt := range []struct {
		name   string
		before func(*testing.T, *Conn, *peer)
	}{
		{"at once", func(t *testing.T, conn *Conn, p *peer) { p.keyUpdate(true) }},
		{"after data", func(t *testing.T, conn *Conn, p *peer) {
			transfer(t, conn, p, testutil.Body(70_000))
			p.keyUpdate(true)
		}},
		{"twice", func(t *testing.T, conn *Conn, p *peer) { p.keyUpdate(true); p.keyUpdate(true) }},
		{"without request", func(t *testing.T, conn *Conn, p *peer) { p.keyUpdate(false) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newFakeServer(t, serverConfig(), onDemand, nil)
			conn, p, k := s.connectPeer(t)
			tt.before(t, conn, p)
			// When the data behind the KeyUpdate are read, it is answered.
			p.write(recordApplicationData, []byte("x"))
			if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			transfer(t, conn, p, testutil.Body(2))
			transfer(t, conn, p, testutil.Body(5))
			offload(t, conn, p)
			transfer(t, conn, p, testutil.Body(70_001))
			k.wantSent(t, 70_001, 0)
			// That one has been answered: the connection lives on.
			p.write(recordApplicationData, []byte("y"))
			if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
				t.Error(err)
			}
			conn.Close()
			wantEnd(t, p)
		})
	}
}
