package ktls

import (
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"strings"
	"testing"
)

// unhex decodes hexadecimal digits with spaces between.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// RFC 8448, section 3.
const (
	rfc8448HandshakeSecret = "b67b7d690cc16c4e75e54213cb2d37b4e9c912bcded9105d42befd59d391ad38"
	rfc8448TrafficSecret   = "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643"
)

func TestTrafficKey(t *testing.T) {
	for _, tt := range []struct{ name, secret, key, iv string }{
		{"handshake", rfc8448HandshakeSecret, "3fce516009c21727d0f2e4e86ee403bc", "5d313eb2671276ee13000b30"},
		{"application", rfc8448TrafficSecret, "9f02283b6c9c07efc26bb9f2ac92e356", "cf782b88dd83549aadf1e984"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k, err := newTrafficKey(suiteByID(tls.TLS_AES_128_GCM_SHA256), unhex(t, tt.secret))
			if err != nil {
				t.Fatal(err)
			}
			if got := hex.EncodeToString(k.key); got != tt.key {
				t.Errorf("key %s, want %s", got, tt.key)
			}
			if got := hex.EncodeToString(k.iv); got != tt.iv {
				t.Errorf("iv %s, want %s", got, tt.iv)
			}
			key, iv := k.key, k.iv
			k.wipe()
			wantZero(t, "key", key)
			wantZero(t, "iv", iv)
		})
	}
}

// The server's records of RFC 8448, section 3, after its NewSessionTicket,
// which has number 0.
func TestOpen(t *testing.T) {
	data := unhex(t, `17 03 03 00 43 2e 93 7e 11 ef 4a c7 40 e5 38 ad 36 00 5f c4 a4 69 32 fc
		32 25 d0 5f 82 aa 1b 36 e3 0e fa f9 7d 90 e6 df fc 60 2d cb 50 1a 59 a8
		fc c4 9c 4b f2 e5 f0 a2 1c 00 47 c2 ab f3 32 54 0d d0 32 e1 67 c2 95 5d`)
	alert := unhex(t, "17 03 03 00 13 b5 8f d6 71 66 eb f5 99 d2 47 20 cf be 7e fa 7a 88 64 a9")
	content := make([]byte, 50)
	for i := range content {
		content[i] = byte(i)
	}
	tampered := append([]byte(nil), data...)
	tampered[len(tampered)-1] ^= 1
	header := append([]byte(nil), data...)
	header[2] = 1

	k, err := newTrafficKey(suiteByID(tls.TLS_AES_128_GCM_SHA256), unhex(t, rfc8448TrafficSecret))
	if err != nil {
		t.Fatal(err)
	}
	padded := seal(k.aead, [12]byte(k.iv), 1, 23, []byte("padded\x17\x00\x00"))
	for _, tt := range []struct {
		name     string
		record   []byte
		sequence uint64
		typ      recordType
		content  []byte
		ok       bool
	}{
		{"data", data, 1, recordApplicationData, content, true},
		{"alert", alert, 2, recordAlert, []byte{1, 0}, true},
		{"wrong number", data, 2, 0, nil, false},
		{"number that differs in its highest byte", data, 1 | 1<<56, 0, nil, false},
		{"tampered", tampered, 1, 0, nil, false},
		{"header tampered", header, 1, 0, nil, false},
		{"cut", data[:30], 1, 0, nil, false},
		{"header only", data[:5], 1, 0, nil, false},
		{"nothing", nil, 1, 0, nil, false},
		{"data that end in zeros", padded, 1, recordApplicationData, []byte("padded\x17\x00\x00"), true},
		{"large number", seal(k.aead, [12]byte(k.iv), 0x0102030405060708, 23, []byte("x")), 0x0102030405060708, recordApplicationData, []byte("x"), true},
		{"padding", seal(k.aead, [12]byte(k.iv), 1, 0, []byte("x\x15\x00\x00")), 1, recordAlert, []byte("x"), true},
		{"only padding", seal(k.aead, [12]byte(k.iv), 1, 0, make([]byte, 4)), 1, 0, nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			typ, got, ok := k.open(tt.record, tt.sequence)
			if typ != tt.typ || !bytes.Equal(got, tt.content) || ok != tt.ok {
				t.Errorf("open = %d, %x, %v; want %d, %x, %v", typ, got, ok, tt.typ, tt.content, tt.ok)
			}
		})
	}
}

// RFC 8448 has no KeyUpdate. Golden values from HKDF-Expand made by hand:
// HMAC-SHA256(secret, 0020 11 "tls13 traffic upd" 00 01).
func TestNextSecret(t *testing.T) {
	s := suiteByID(tls.TLS_AES_128_GCM_SHA256)
	got, err := nextSecret(s, unhex(t, rfc8448TrafficSecret))
	if err != nil {
		t.Fatal(err)
	}
	const want = "51921b8aa3001976eb401d0a4319a8516416a6c56001a357e5d162031e84f916"
	if hex.EncodeToString(got) != want {
		t.Errorf("next secret %x, want %s", got, want)
	}
}

// Every suite that crypto/tls can negotiate in TLS 1.3 is known.
func TestSuites(t *testing.T) {
	for _, suite := range tls.CipherSuites() {
		if suite.SupportedVersions[0] != tls.VersionTLS13 {
			continue
		}
		s := suiteByID(suite.ID)
		if s == nil {
			t.Errorf("%s is not known", suite.Name)
			continue
		}
		k, err := newTrafficKey(s, make([]byte, s.secretLen))
		if err != nil || len(k.key) != s.keyLen || s.hash().Size() != s.secretLen {
			t.Errorf("%s: %v", suite.Name, err)
		}
		all := Support{AES128GCM: true, AES256GCM: true, ChaCha20Poly1305: true}
		if !all.Has(suite.ID) || (Support{}).Has(suite.ID) {
			t.Errorf("%s: Support.Has is wrong", suite.Name)
		}
	}
}
