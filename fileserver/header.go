package fileserver

import (
	"net/http"
	"strconv"
)

// A header is what the header of a response says about its body. It is noted when the
// server takes the header: with the status, the first bytes, or a flush. What a handler
// changes later has no effect.
type header struct {
	status      int  // 0 if the handler has set none, which means 200
	noted       bool // the fields below are set, except typed
	typed       bool // the Content-Type came with the status, so nobody need look at the body
	lengthKnown bool // there is a Content-Length
	encoded     bool // there is a Transfer-Encoding
	length      int64
}

// noteStatus notes a header that the handler sends with its status.
func (h *header) noteStatus(status int, from http.Header) {
	h.status = status
	_, h.typed = from["Content-Type"]
	h.typed = h.typed || from.Get("Content-Encoding") != ""
	h.note(from)
}

// note notes a header, unless one was noted before.
func (h *header) note(from http.Header) {
	if h.noted {
		return
	}
	h.noted = true
	h.length, h.lengthKnown = contentLength(from)
	h.encoded = len(from["Transfer-Encoding"]) > 0
}

// contentLength returns the length that a handler has declared.
func contentLength(h http.Header) (int64, bool) {
	values := h["Content-Length"]
	if len(values) != 1 {
		return 0, false
	}
	n, err := strconv.ParseInt(values[0], 10, 64)
	return n, err == nil && n >= 0
}

// hasBody reports whether a response with this header has a body (RFC 9110, section
// 6.4.1).
func (h *header) hasBody() bool {
	switch h.status {
	case http.StatusSwitchingProtocols, http.StatusNoContent, http.StatusNotModified:
		return false
	}
	return true
}
