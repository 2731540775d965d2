package ktls

import (
	"bytes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/tls"
	"encoding/binary"
	"slices"
)

// A trafficKey opens the records of one direction.
type trafficKey struct {
	suite *suite
	key   []byte
	iv    []byte // 12 bytes, XORed with the sequence number
	aead  cipher.AEAD
}

// newTrafficKey13 derives key and IV from a traffic secret (RFC 8446, section 7.3).
func newTrafficKey13(s *suite, secret []byte) (*trafficKey, error) {
	key, err := expandLabel(s, secret, "key", s.keyLen)
	if err != nil {
		return nil, err
	}
	iv, err := expandLabel(s, secret, "iv", 12)
	if err != nil {
		return nil, err
	}
	return newTrafficKey(s, key, iv)
}

// newTrafficKey12 derives the server's key and IV from a master secret (RFC 5246, section
// 6.3). AEADs have no MAC keys.
func newTrafficKey12(s *suite, master, clientRandom, serverRandom []byte) (*trafficKey, error) {
	fixedIV := 12
	if s.explicitNonce() {
		fixedIV = s.saltLen
	}
	block := prf12(s, master, "key expansion", slices.Concat(serverRandom, clientRandom), 2*(s.keyLen+fixedIV))
	defer clear(block)
	iv := make([]byte, 12) // the sequence number will be the explicit part
	copy(iv, block[2*s.keyLen+fixedIV:])
	return newTrafficKey(s, bytes.Clone(block[s.keyLen:2*s.keyLen]), iv)
}

func newTrafficKey(s *suite, key, iv []byte) (*trafficKey, error) {
	aead, err := s.newAEAD(key)
	if err != nil {
		clear(key)
		return nil, err
	}
	return &trafficKey{suite: s, key: key, iv: iv, aead: aead}, nil
}

// prf12 is the PRF of TLS 1.2 (RFC 5246, section 5).
func prf12(s *suite, secret []byte, label string, seed []byte, length int) []byte {
	seed = append([]byte(label), seed...)
	mac := hmac.New(s.hash, secret)
	sum := func(parts ...[]byte) []byte {
		mac.Reset()
		for _, part := range parts {
			mac.Write(part)
		}
		return mac.Sum(nil)
	}
	// With one allocation, no copies of keys are left behind.
	out := make([]byte, 0, length+mac.Size())
	for a := sum(seed); len(out) < length; a = sum(a) {
		part := sum(a, seed)
		out = append(out, part...)
		clear(part)
	}
	clear(out[length:])
	return out[:length]
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

// open decrypts a whole record and returns its content type and content, or false if the
// record is not authentic under this key and sequence number.
func (k *trafficKey) open(record []byte, sequence uint64) (recordType, []byte, bool) {
	if len(record) < recordHeaderLen {
		return 0, nil, false
	}
	nonce := bytes.Clone(k.iv)
	for i := range 8 {
		nonce[len(nonce)-1-i] ^= byte(sequence >> (8 * i))
	}
	header, payload := record[:recordHeaderLen], record[recordHeaderLen:]
	if k.suite.version == tls.VersionTLS12 {
		return k.open12(header, payload, nonce, sequence)
	}
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

// open12 opens a record of TLS 1.2 (RFC 5246, section 6.2.3.3). It refuses a record whose
// explicit nonce is not the sequence number, because the kernel would go on with another
// nonce.
func (k *trafficKey) open12(header, payload, nonce []byte, sequence uint64) (recordType, []byte, bool) {
	if k.suite.explicitNonce() {
		if !bytes.HasPrefix(payload, nonce[k.suite.saltLen:]) {
			return 0, nil, false
		}
		payload = payload[explicitNonceLen:]
	}
	if len(payload) < tagLen {
		return 0, nil, false
	}
	additional := make([]byte, 0, 13)
	additional = binary.BigEndian.AppendUint64(additional, sequence)
	additional = append(additional, header[:3]...)
	additional = binary.BigEndian.AppendUint16(additional, uint16(len(payload)-tagLen))
	plain, err := k.aead.Open(nil, nonce, payload, additional)
	return recordType(header[0]), plain, err == nil
}
