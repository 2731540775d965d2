package ktls

import (
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
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
			k := mustKey(t, suiteByID(tls.TLS_AES_128_GCM_SHA256), unhex(t, tt.secret))
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

	k := mustKey(t, suiteByID(tls.TLS_AES_128_GCM_SHA256), unhex(t, rfc8448TrafficSecret))
	key := sealerOf(k)
	padded := key.Seal(1, 23, []byte("padded\x17\x00\x00"))
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
		{"large number", key.Seal(0x0102030405060708, 23, []byte("x")), 0x0102030405060708, recordApplicationData, []byte("x"), true},
		{"padding", key.Seal(1, 0, []byte("x\x15\x00\x00")), 1, recordAlert, []byte("x"), true},
		{"only padding", key.Seal(1, 0, make([]byte, 4)), 1, 0, nil, false},
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

// Vectors as openssl kdf computes them (TLS1-PRF, digest SHA2-256 and SHA2-384).
func TestPRF12(t *testing.T) {
	for _, tt := range []struct {
		suite              uint16
		secret, seed, want string
	}{
		{
			tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			"9bbe436ba940f017b17652849a71db35", "a0ba9f936cda311827a6f796ffd5198c",
			`e3f229ba727be17b8d122620557cd453c2aab21d07c3d495329b52d4e61edb5a6b301791e90d35c9c9a46b4e14baf9af
			0fa022f7077def17abfd3797c0564bab4fbc91666e9def9b97fce34f796789baa48082d122ee42c5a72e5a5110fff701
			87347b66`,
		},
		{
			tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			"b80b733d6ceefcdc71566ea48e5567df", "cd665cf6a8447dd6ff8b27555edb7465",
			`7b0c18e9ced410ed1804f2cfa34a336a1c14dffb4900bb5fd7942107e81c83cde9ca0faa60be9fe34f82b1233c9146a0
			e534cb400fed2700884f9dc236f80edd8bfa961144c9e8d792eca722a7b32fc3d416d473ebc2c5fd4abfdad05d918425
			9b5bf8cd4d90fa0d31e2dec479e4f1a26066f2eea9a69236a3e52655c9e9aee691c8f3a26854308d5eaa3be85e099070
			3d73e56f`,
		},
	} {
		want := unhex(t, tt.want)
		got := prf12(suiteByID(tt.suite), unhex(t, tt.secret), "test label", unhex(t, tt.seed), len(want))
		if !bytes.Equal(got, want) {
			t.Errorf("%s: got %x", tls.CipherSuiteName(tt.suite), got)
		}
		if spare := got[len(got):cap(got)]; !bytes.Equal(spare, make([]byte, len(spare))) {
			t.Errorf("%s: key material is left behind the result", tls.CipherSuiteName(tt.suite))
		}
	}
}

// A TLS 1.2 record opens under its own number and type only, and only if its
// explicit nonce is the number.
func TestOpen12(t *testing.T) {
	for _, s := range suites12 {
		k := mustKey(t, &s, testutil.Body(s.secretLen))
		key := sealerOf(k)
		record := key.Seal(7, 23, []byte("content"))
		if typ, content, ok := k.open(record, 7); !ok || typ != 23 || string(content) != "content" {
			t.Errorf("%v: open = %d, %q, %v", &s, typ, content, ok)
		}
		if len(record) != len("content")+s.overhead() {
			t.Errorf("%v: %d bytes, overhead %d", &s, len(record), s.overhead())
		}
		if _, _, ok := k.open(record, 8); ok {
			t.Errorf("%v: opened under another number", &s)
		}
		for n := range record {
			if _, _, ok := k.open(record[:n], 7); ok {
				t.Errorf("%v: %d of %d bytes opened", &s, n, len(record))
			}
			// The length in the header is not covered: the content's is.
			if n == 3 || n == 4 {
				continue
			}
			changed := bytes.Clone(record)
			changed[n] ^= 1
			if _, _, ok := k.open(changed, 7); ok {
				t.Errorf("%v: opened with byte %d changed", &s, n)
			}
		}
		if !s.explicitNonce() {
			continue
		}
		// Authentic, but not with the nonce that the kernel would go on with.
		var number [8]byte
		number[7] = 9
		nonce := append(bytes.Clone(k.iv[:4]), number[:]...)
		additional := []byte{0, 0, 0, 0, 0, 0, 0, 7, 23, 3, 3, 0, 1}
		other := append([]byte{23, 3, 3, 0, 8 + 1 + 16}, number[:]...)
		other = k.aead.Seal(other, nonce, []byte("x"), additional)
		if _, _, ok := k.open(other, 7); ok {
			t.Errorf("%v: opened with a nonce that is not the number", &s)
		}
	}
}

var suites13, suites12 = suites[:3], suites[3:]

// Every AEAD suite that crypto/tls can negotiate by itself is known.
func TestSuites(t *testing.T) {
	all := Support{known: 1<<len(suites) - 1}
	for _, suite := range tls.CipherSuites() {
		s := suiteByID(suite.ID)
		if strings.HasSuffix(suite.Name, "_CBC_SHA") {
			if s != nil || all.Has(suite.ID) {
				t.Errorf("%s is no AEAD", suite.Name)
			}
			continue
		}
		if s == nil {
			t.Errorf("%s is not known", suite.Name)
			continue
		}
		if !slices.Contains(suite.SupportedVersions, s.version) {
			t.Errorf("%s: version %#x", suite.Name, s.version)
		}
		k := mustKey(t, s, make([]byte, s.secretLen))
		if len(k.key) != s.keyLen || s.version == tls.VersionTLS13 && s.hash().Size() != s.secretLen {
			t.Errorf("%s: key of %d bytes", suite.Name, len(k.key))
		}
		if !all.Has(suite.ID) || (Support{}).Has(suite.ID) {
			t.Errorf("%s: Support.Has is wrong", suite.Name)
		}
	}
}
