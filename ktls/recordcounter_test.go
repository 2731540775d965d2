package ktls

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

func TestCutRecord(t *testing.T) {
	for _, tt := range []struct {
		name             string
		in, record, rest string
		ok               bool
	}{
		{"one", "\x17\x03\x03\x00\x02ab", "\x17\x03\x03\x00\x02ab", "", true},
		{"two", "\x17\x03\x03\x00\x01a\x15\x03\x03\x00\x00", "\x17\x03\x03\x00\x01a", "\x15\x03\x03\x00\x00", true},
		{"long", "\x17\x03\x03\x01\x00" + string(make([]byte, 256)) + "x", "\x17\x03\x03\x01\x00" + string(make([]byte, 256)), "x", true},
		{"empty record", "\x17\x03\x03\x00\x00x", "\x17\x03\x03\x00\x00", "x", true},
		{"half a header", "\x17\x03\x03\x00", "", "\x17\x03\x03\x00", false},
		{"half a record", "\x17\x03\x03\x00\x02a", "", "\x17\x03\x03\x00\x02a", false},
		{"nothing", "", "", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			record, rest, ok := cutRecord([]byte(tt.in))
			if string(record) != tt.record || string(rest) != tt.rest || ok != tt.ok {
				t.Errorf("got %x, %x, %v", record, rest, ok)
			}
		})
	}
}

func FuzzCutRecord(f *testing.F) {
	f.Add([]byte("\x17\x03\x03\x00\x02ab\x17\x03\x03\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		record, rest, ok := cutRecord(b)
		if !bytes.Equal(append(bytes.Clone(record), rest...), b) {
			t.Error("bytes got lost")
		}
		if ok && (len(record) < recordHeaderLen || int(record[3])<<8|int(record[4]) != len(record)-recordHeaderLen) {
			t.Errorf("record %x", record)
		}
		if cap(record) != len(record) {
			t.Error("appending to the record would overwrite the rest")
		}
	})
}

// What crypto/tls writes is parsed too: nothing that it could write may panic,
// or prove what is not so.
func FuzzCount(f *testing.F) {
	for i := range suites {
		s := &suites[i]
		key := sealerOf(mustKey(f, s, make([]byte, s.secretLen)))
		record := key.Seal(0, 23, []byte("ab"))
		f.Add(record, true, i)
		f.Add(append(append([]byte{22, 3, 3, 0, 1, 0}, record...), 20, 3, 3, 0, 1, 1), false, i)
		f.Add(append([]byte{20, 3, 3, 0, 1, 1}, key.Seal(0, 22, []byte("finished"))...), false, i)
		f.Add(key.Seal(1, 21, []byte{2, 20}), true, i)
	}
	f.Fuzz(func(t *testing.T, p []byte, handshook bool, i int) {
		s := &suites[uint(i)%uint(len(suites))]
		secret := bytes.Repeat([]byte{7}, s.secretLen)
		c := &recordCounter{key: writeKey{secret: secret, hellos: new(hellos)}, capture: true}
		if handshook {
			c.handshakeDone(s)
		}
		c.count(p)
		c.handshakeDone(s)
		if _, state := c.prove(); state == Offloaded {
			t.Errorf("proved by %x", p)
		}
		relay := newControlRelay(c.handOver(0), new(keyRenewal))
		if n, err := relay.write(p); err == nil && len(p) > 0 {
			t.Errorf("%d bytes accepted after the offload: %x", n, p)
		}
	})
}

// mustKey returns the server's key: that of a traffic secret, or of a master
// secret and testRandoms.
func mustKey(t testing.TB, s *suite, secret []byte) *trafficKey {
	t.Helper()
	var k *trafficKey
	var err error
	if s.version == tls.VersionTLS12 {
		k, err = newTrafficKey12(s, secret, testRandom(handshakeClientHello), testRandom(handshakeServerHello))
	} else {
		k, err = newTrafficKey13(s, secret)
	}
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// testRandom is the random of a hello.
func testRandom(messageType byte) []byte { return bytes.Repeat([]byte{messageType}, randomLen) }

// testHello is a record with what matters of a hello.
func testHello(messageType byte) []byte {
	body := append([]byte{messageType, 0, 0, 2 + randomLen, 3, 3}, testRandom(messageType)...)
	return append([]byte{22, 3, 3, 0, byte(len(body))}, body...)
}

// Records that may be an alert or a KeyUpdate by their length are opened before the
// offload, by a key that is derived once.
func TestShortWriteAllocations(t *testing.T) {
	for _, n := range []int{2, 5} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			s := newFakeServer(t, serverConfig(), onDemand, nil)
			conn, client, k := s.connect(t, clientConfig())
			go func() { _, _ = io.Copy(io.Discard, client.NetConn().(*testutil.Recording).Conn) }()
			p := make([]byte, n)
			most := 6.0
			if got := testing.AllocsPerRun(200, func() { _, _ = conn.Write(p) }); got > most {
				t.Errorf("%v allocations for a write, want %v at most", got, most)
			}
			// The number is still the right one.
			conn.Offload()
			if _, err := conn.Write(p); err != nil {
				t.Fatal(err)
			}
			wantState(t, conn, Offloaded)
			if k.Sequence() < 202 {
				t.Errorf("the kernel goes on with %d", k.Sequence())
			}
		})
	}
}
