package ktls

import (
	"crypto/cipher"
	"crypto/hkdf"
)

// A trafficKey seals and opens the records of one direction under one traffic
// secret (RFC 8446, sections 5.2, 5.3 and 7.3).
type trafficKey struct {
	key  []byte
	iv   []byte // 12 bytes, XORed with the sequence number
	aead cipher.AEAD
}

// newTrafficKey derives key and IV from a traffic secret.
func newTrafficKey(s *suite, secret []byte) (*trafficKey, error) {
	key, err := expandLabel(s, secret, "key", s.keyLen)
	if err != nil {
		return nil, err
	}
	iv, err := expandLabel(s, secret, "iv", 12)
	if err != nil {
		return nil, err
	}
	aead, err := s.newAEAD(key)
	if err != nil {
		clear(key)
		return nil, err
	}
	return &trafficKey{key: key, iv: iv, aead: aead}, nil
}

// nextSecret returns the traffic secret that follows a KeyUpdate (RFC 8446,
// section 7.2).
func nextSecret(s *suite, secret []byte) ([]byte, error) {
	return expandLabel(s, secret, "traffic upd", s.secretLen)
}

// expandLabel is HKDF-Expand-Label with an empty context (RFC 8446, section
// 7.1).
func expandLabel(s *suite, secret []byte, label string, length int) ([]byte, error) {
	label = "tls13 " + label
	info := make([]byte, 0, 4+len(label))
	info = append(info, byte(length>>8), byte(length), byte(len(label)))
	info = append(info, label...)
	info = append(info, 0)
	return hkdf.Expand(s.hash, secret, string(info), length)
}

// wipe zeroes key and IV. What the AEAD expanded from the key stays until the
// garbage collector reuses the memory.
func (k *trafficKey) wipe() {
	if k != nil {
		clear(k.key)
		clear(k.iv)
	}
}

// open decrypts a whole TLS 1.3 record and returns its inner content type and
// content, or false if it is not authentic under this key and number.
func (k *trafficKey) open(record []byte, sequence uint64) (recordType, []byte, bool) {
	if len(record) < recordHeaderLen {
		return 0, nil, false
	}
	nonce := make([]byte, len(k.iv))
	copy(nonce, k.iv)
	for i := range 8 {
		nonce[len(nonce)-1-i] ^= byte(sequence >> (8 * i))
	}
	header, payload := record[:recordHeaderLen], record[recordHeaderLen:]
	plain, err := k.aead.Open(nil, nonce, payload, header)
	if err != nil {
		return 0, nil, false
	}
	// The content type is the last byte that is not padding (RFC 8446,
	// section 5.4).
	for i := len(plain) - 1; i >= 0; i-- {
		if plain[i] != 0 {
			return recordType(plain[i]), plain[:i], true
		}
	}
	return 0, nil, false
}
