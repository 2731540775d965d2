package ktls

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"testing"
)

// The layout of the structures tls12_crypto_info_* in include/uapi/linux/tls.h.
func TestCryptoInfo(t *testing.T) {
	iv := "a0a1a2a3a4a5a6a7a8a9aaab"
	key128 := "000102030405060708090a0b0c0d0e0f"
	key256 := key128 + "101112131415161718191a1b1c1d1e1f"
	for _, tt := range []struct {
		name  string
		suite uint16
		key   string
		want  string // after version and cipher type
		kind  uint16
	}{
		{"AES-128-GCM", tls.TLS_AES_128_GCM_SHA256, key128,
			"a4a5a6a7a8a9aaab" + key128 + "a0a1a2a3" + "0000000102030405", 51},
		{"AES-256-GCM", tls.TLS_AES_256_GCM_SHA384, key256,
			"a4a5a6a7a8a9aaab" + key256 + "a0a1a2a3" + "0000000102030405", 52},
		{"ChaCha20-Poly1305", tls.TLS_CHACHA20_POLY1305_SHA256, key256,
			iv + key256 + "0000000102030405", 54},
		// The explicit nonce is the number.
		{"TLS 1.2 AES-128-GCM", tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, key128,
			"0000000102030405" + key128 + "a0a1a2a3" + "0000000102030405", 51},
		{"TLS 1.2 AES-256-GCM", tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, key256,
			"0000000102030405" + key256 + "a0a1a2a3" + "0000000102030405", 52},
		{"TLS 1.2 ChaCha20-Poly1305", tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, key256,
			iv + key256 + "0000000102030405", 54},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := suiteByID(tt.suite)
			got := cryptoInfo(&trafficKey{suite: s, key: unhex(t, tt.key), iv: unhex(t, iv)}, 0x0102030405)
			want := binary.NativeEndian.AppendUint16(nil, s.version) // as in TLS, RFC 8446, appendix D
			want = binary.NativeEndian.AppendUint16(want, tt.kind)
			want = append(want, unhex(t, tt.want)...)
			if !bytes.Equal(got, want) {
				t.Errorf("got  %x\nwant %x", got, want)
			}
			// setTX relies on both.
			if len(got)%8 != 0 || cap(got) != len(got) {
				t.Errorf("length %d, capacity %d", len(got), cap(got))
			}
		})
	}
}
