package ktls

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"hash"

	"golang.org/x/crypto/chacha20poly1305"
)

// Numbers of include/uapi/linux/tls.h, under the header's names.
const (
	// The versions, TLS_1_2_VERSION and TLS_1_3_VERSION, have the values of crypto/tls.

	cipherAESGCM128        = 51 // TLS_CIPHER_AES_GCM_128
	cipherAESGCM256        = 52 // TLS_CIPHER_AES_GCM_256
	cipherChaCha20Poly1305 = 54 // TLS_CIPHER_CHACHA20_POLY1305
)

// A suite is what the offload needs to know about a cipher suite.
type suite struct {
	id        uint16 // RFC 8446, appendix B.4; RFC 5289; RFC 7905
	version   uint16 // of TLS
	kernel    uint16 // cipher type of the kernel's crypto info
	keyLen    int    // bytes
	saltLen   int    // bytes of the nonce that the kernel calls salt
	hash      func() hash.Hash
	secretLen int // bytes; in TLS 1.3 the length of hash
	newAEAD   func(key []byte) (cipher.AEAD, error)
}

// masterSecretLen is the length of TLS 1.2's master secret (RFC 5246, section
// 8.1).
const masterSecretLen = 48

// suites has the cipher suites that both crypto/tls and the kernel know.
var suites = []suite{
	{tls.TLS_AES_128_GCM_SHA256, tls.VersionTLS13, cipherAESGCM128, 16, 4, sha256.New, sha256.Size, newAESGCM},
	{tls.TLS_AES_256_GCM_SHA384, tls.VersionTLS13, cipherAESGCM256, 32, 4, sha512.New384, sha512.Size384, newAESGCM},
	{tls.TLS_CHACHA20_POLY1305_SHA256, tls.VersionTLS13, cipherChaCha20Poly1305, 32, 0, sha256.New, sha256.Size, chacha20poly1305.New},

	{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.VersionTLS12, cipherAESGCM128, 16, 4, sha256.New, masterSecretLen, newAESGCM},
	{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.VersionTLS12, cipherAESGCM128, 16, 4, sha256.New, masterSecretLen, newAESGCM},
	{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.VersionTLS12, cipherAESGCM256, 32, 4, sha512.New384, masterSecretLen, newAESGCM},
	{tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, tls.VersionTLS12, cipherAESGCM256, 32, 4, sha512.New384, masterSecretLen, newAESGCM},
	{tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.VersionTLS12, cipherChaCha20Poly1305, 32, 0, sha256.New, masterSecretLen, chacha20poly1305.New},
	{tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, tls.VersionTLS12, cipherChaCha20Poly1305, 32, 0, sha256.New, masterSecretLen, chacha20poly1305.New},
}

// explicitNonce reports whether records carry 8 bytes of their nonce (RFC 5288,
// section 3).
func (s *suite) explicitNonce() bool {
	return s.version == tls.VersionTLS12 && s.saltLen > 0
}

// overhead returns how many bytes a record takes on the wire besides its content: header,
// explicit nonce or inner content type, and tag.
func (s *suite) overhead() int {
	n := recordHeaderLen + tagLen
	switch {
	case s.version == tls.VersionTLS13:
		n++
	case s.explicitNonce():
		n += explicitNonceLen
	}
	return n
}

// alertLen returns how many bytes an alert takes on the wire.
func (s *suite) alertLen() int { return s.overhead() + 2 }

func (s *suite) cipher() string {
	return map[uint16]string{
		cipherAESGCM128: "AES-128-GCM", cipherAESGCM256: "AES-256-GCM", cipherChaCha20Poly1305: "ChaCha20-Poly1305",
	}[s.kernel]
}

func (s *suite) String() string { return tls.VersionName(s.version) + " with " + s.cipher() }

func newAESGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// suiteByID returns the suite with an ID of TLS, or nil if it can't be offloaded.
func suiteByID(id uint16) *suite {
	for i := range suites {
		if suites[i].id == id {
			return &suites[i]
		}
	}
	return nil
}
