package ktls

import "encoding/binary"

// randomLen is the length of the random in a hello (RFC 5246, section 7.4.1.2).
const randomLen = 32

// hellos has what TLS 1.2 derives its keys from, besides the master secret.
type hellos struct{ client, server helloReader }

// A helloReader takes the random out of a stream of records that begins with a
// ClientHello or a ServerHello, however the message is split into records and reads. TLS
// 1.2 derives its keys from the two randoms. Bytes that are not a hello do no harm: no
// record opens under the keys that come of them.
type helloReader struct {
	header    [recordHeaderLen]byte
	headerLen int
	left      int                 // bytes of the record's payload
	message   [6 + randomLen]byte // type, length, version, random
	n         int
	done      bool
}

func (h *helloReader) add(p []byte) {
	for len(p) > 0 && !h.done {
		if h.left == 0 {
			n := copy(h.header[h.headerLen:], p)
			p = p[n:]
			if h.headerLen += n; h.headerLen == recordHeaderLen {
				h.left = int(binary.BigEndian.Uint16(h.header[3:]))
				h.headerLen = 0
			}
			continue
		}
		part := p[:min(len(p), h.left)]
		p = p[len(part):]
		h.left -= len(part)
		// A warning may precede the hello.
		if recordType(h.header[0]) == recordHandshake {
			h.n += copy(h.message[h.n:], part)
			h.done = h.n == len(h.message)
		}
	}
}

// random returns the random of a hello of this type, or nil if there is none.
func (h *helloReader) random(messageType byte) []byte {
	if !h.done || h.message[0] != messageType {
		return nil
	}
	return h.message[6:]
}
