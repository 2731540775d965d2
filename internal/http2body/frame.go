package http2body

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/net/http2"
)

const (
	// frameHeaderLen is the length of a frame's header (RFC 9113, section 4.1).
	frameHeaderLen = 9
	// wholeFrame is the length of a frame from memory that fills one TLS record (RFC
	// 8446, section 5.1). maxPayload is the length of its payload. Both are in bytes.
	wholeFrame = 1 << 14
	maxPayload = wholeFrame - frameHeaderLen
)

// A frameHeader is what matters of a frame's header.
type frameHeader struct {
	length int // of the payload
	typ    http2.FrameType
	flags  http2.Flags
	stream uint32
}

func parseFrameHeader(b []byte) frameHeader {
	return frameHeader{
		length: int(binary.BigEndian.Uint32(b) >> 8),
		typ:    http2.FrameType(b[3]),
		flags:  http2.Flags(b[4]),
		stream: binary.BigEndian.Uint32(b[5:]) & (1<<31 - 1),
	}
}

func (h frameHeader) append(b []byte) []byte {
	b = append(b, byte(h.length>>16), byte(h.length>>8), byte(h.length), byte(h.typ), byte(h.flags))
	return binary.BigEndian.AppendUint32(b, h.stream)
}

// endsStream reports whether the frame has the flag END_STREAM.
func (h frameHeader) endsStream() bool {
	return (h.typ == http2.FrameData || h.typ == http2.FrameHeaders) && h.flags.Has(http2.FlagDataEndStream)
}

// endsBlock reports whether another frame may follow this one. The frames of a header
// block must stand together (RFC 9113, section 4.3).
func (h frameHeader) endsBlock() bool {
	switch h.typ {
	case http2.FrameHeaders, http2.FramePushPromise, http2.FrameContinuation:
		return h.flags.Has(http2.FlagHeadersEndHeaders) // the same bit for all three
	}
	return true
}

// Frames returns the frames that write writes with a framer.
func Frames(write func(*http2.Framer) error) []byte {
	var b bytes.Buffer
	_ = write(http2.NewFramer(&b, nil)) // a Buffer takes everything
	return b.Bytes()
}

func windowUpdate(stream uint32, n int64) []byte {
	return Frames(func(f *http2.Framer) error { return f.WriteWindowUpdate(stream, uint32(n)) })
}
