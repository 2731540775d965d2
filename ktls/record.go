package ktls

import "encoding/binary"

const (
	recordHeaderLen  = 5
	explicitNonceLen = 8  // RFC 5288, section 3
	tagLen           = 16 // of every AEAD here
	// maxPayload is the most data that one record may carry (RFC 8446, section 5.1), in
	// bytes.
	maxPayload = 16384
)

// A recordType is a TLS content type (RFC 8446, section 5.1).
type recordType byte

const (
	recordChangeCipherSpec recordType = 20
	recordAlert            recordType = 21
	recordHandshake        recordType = 22
	recordApplicationData  recordType = 23
)

const (
	alertLevelWarning = 1
	alertCloseNotify  = 0
)

var closeNotify = [2]byte{alertLevelWarning, alertCloseNotify}

// The lengths of the sealed payload of a TLS 1.3 alert (2 bytes) and of a KeyUpdate (5
// bytes): content, content type, tag. crypto/tls does not pad.
const (
	sealedAlertLen     = 2 + 1 + tagLen
	sealedKeyUpdateLen = 5 + 1 + tagLen
)

// Handshake message types (RFC 8446, section 4).
const (
	handshakeClientHello = 1
	handshakeServerHello = 2
	handshakeKeyUpdate   = 24
)

// keyUpdate is a KeyUpdate that asks for none in return (RFC 8446, section 4.6.3).
var keyUpdate = [5]byte{handshakeKeyUpdate, 0, 0, 1, 0}

// cutRecord splits the first whole record off b. ok is false if b has no whole record.
func cutRecord(b []byte) (record, rest []byte, ok bool) {
	if len(b) < recordHeaderLen {
		return nil, b, false
	}
	n := recordHeaderLen + int(binary.BigEndian.Uint16(b[3:5]))
	if len(b) < n {
		return nil, b, false
	}
	return b[:n:n], b[n:], true
}
