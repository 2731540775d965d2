package ktls

import "encoding/binary"

// cryptoInfo returns a struct tls12_crypto_info_* of include/uapi/linux/tls.h: version
// and cipher type in host order, then iv, key, salt and the sequence number of the next
// record in big-endian order, without padding. It has 40 bytes for AES-128-GCM, and 56
// for AES-256-GCM and ChaCha20-Poly1305. It holds the key, so the caller clears it.
func cryptoInfo(k *trafficKey, sequence uint64) []byte {
	s := k.suite
	salt, iv := k.iv[:s.saltLen], k.iv[s.saltLen:]
	b := make([]byte, 0, 4+len(k.iv)+len(k.key)+8)
	b = binary.NativeEndian.AppendUint16(b, s.version)
	b = binary.NativeEndian.AppendUint16(b, s.kernel)
	if s.explicitNonce() {
		// The kernel counts the explicit nonce up from iv. crypto/tls has used the
		// sequence number as the explicit nonce.
		b = binary.BigEndian.AppendUint64(b, sequence)
	} else {
		b = append(b, iv...)
	}
	b = append(b, k.key...)
	b = append(b, salt...)
	return binary.BigEndian.AppendUint64(b, sequence)
}
