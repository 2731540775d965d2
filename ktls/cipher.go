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
	tls13Version = 0x0304 // TLS_1_3_VERSION

	cipherAESGCM128        = 51 // TLS_CIPHER_AES_GCM_128
	cipherAESGCM256        = 52 // TLS_CIPHER_AES_GCM_256
	cipherChaCha20Poly1305 = 54 // TLS_CIPHER_CHACHA20_POLY1305
)

// A suite is what offloading needs to know of a TLS 1.3 cipher suite.
type suite struct {
	id        uint16 // TLS cipher suite, RFC 8446, appendix B.4
	kernel    uint16 // cipher type of the kernel's crypto info
	keyLen    int    // bytes
	saltLen   int    // bytes of the nonce that the kernel calls salt
	hash      func() hash.Hash
	secretLen int // bytes, the length of hash
	newAEAD   func(key []byte) (cipher.AEAD, error)
	name      string
}

// suites are the TLS 1.3 suites that both crypto/tls and the kernel know.
var suites = []suite{
	{tls.TLS_AES_128_GCM_SHA256, cipherAESGCM128, 16, 4, sha256.New, sha256.Size, newAESGCM, "AES-128-GCM"},
	{tls.TLS_AES_256_GCM_SHA384, cipherAESGCM256, 32, 4, sha512.New384, sha512.Size384, newAESGCM, "AES-256-GCM"},
	{tls.TLS_CHACHA20_POLY1305_SHA256, cipherChaCha20Poly1305, 32, 0, sha256.New, sha256.Size, chacha20poly1305.New, "ChaCha20-Poly1305"},
}

func newAESGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// suiteByID returns nil for a suite that can't be offloaded.
func suiteByID(id uint16) *suite {
	for i := range suites {
		if suites[i].id == id {
			return &suites[i]
		}
	}
	return nil
}
