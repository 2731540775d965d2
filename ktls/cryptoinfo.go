package ktls

import "encoding/binary"

// cryptoInfo lays out a struct tls12_crypto_info_* of
// include/uapi/linux/tls.h: version and cipher type in host order, then iv, key,
// salt and the big-endian number of the next record, without padding. The
// structure has 40 bytes for AES-128-GCM, 56 for AES-256-GCM and
// ChaCha20-Poly1305, and holds the key: the caller clears it.
func cryptoInfo(k *trafficKey, sequence uint64) []byte {
	s := k.suite
	salt, iv := k.iv[:s.saltLen], k.iv[s.saltLen:]
	b := make([]byte, 0, 4+len(k.iv)+len(k.key)+8)
	b = binary.NativeEndian.AppendUint16(b, s.version)
	b = binary.NativeEndian.AppendUint16(b, s.kernel)
	if s.explicitNonce() {
		// The kernel counts the explicit nonce on from iv, and crypto/tls
		// has used the sequence number for it.
		b = binary.BigEndian.AppendUint64(b, sequence)
	} else {
		b = append(b, iv...)
	}
	b = append(b, k.key...)
	b = append(b, salt...)
	return binary.BigEndian.AppendUint64(b, sequence)
}
