package ktls

import "encoding/binary"

const (
	recordHeaderLen = 5
	// maxPayload is the most data that one record may carry (RFC 8446,
	// section 5.1).
	maxPayload = 16384
)

// A recordType is a TLS content type (RFC 8446, section 5.1).
type recordType byte

const (
	recordAlert           recordType = 21
	recordHandshake       recordType = 22
	recordApplicationData recordType = 23
)

const (
	alertLevelWarning = 1
	alertCloseNotify  = 0
)

var closeNotify = [2]byte{alertLevelWarning, alertCloseNotify}

// The lengths of the sealed payload of a post-handshake alert (2 bytes) and of
// a KeyUpdate (5 bytes): content, content type, 16 bytes of tag. crypto/tls
// does not pad.
const (
	sealedAlertLen     = 2 + 1 + 16
	sealedKeyUpdateLen = 5 + 1 + 16
)

// recordOverhead is what a record takes on the wire beside its content: header,
// content type, tag.
const recordOverhead = recordHeaderLen + 1 + 16

// closeNotifyLen is what a record with close_notify, or any other alert, takes
// on the wire.
const closeNotifyLen = recordHeaderLen + sealedAlertLen

// handshakeKeyUpdate is the handshake message type of RFC 8446, section 4.6.3.
const handshakeKeyUpdate = 24

// cutRecord splits the first whole record off b.
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
