package ktls

import (
	"crypto/tls"
	"errors"
	"sync"
)

// Support is what the running kernel can do for TLS 1.3 connections that send.
type Support struct {
	AES128GCM        bool
	AES256GCM        bool
	ChaCha20Poly1305 bool

	// Rekey: the key of a connection can be replaced (Linux 6.14).
	Rekey bool
}

// Any reports whether the kernel can do any cipher at all.
func (s Support) Any() bool { return s.AES128GCM || s.AES256GCM || s.ChaCha20Poly1305 }

// Has reports whether the kernel can do a TLS 1.3 cipher suite.
func (s Support) Has(suite uint16) bool {
	switch suite {
	case tls.TLS_AES_128_GCM_SHA256:
		return s.AES128GCM
	case tls.TLS_AES_256_GCM_SHA384:
		return s.AES256GCM
	case tls.TLS_CHACHA20_POLY1305_SHA256:
		return s.ChaCha20Poly1305
	}
	return false
}

var cachedProbe struct {
	sync.Mutex
	conclusive bool
	support    Support
	err        error
}

// Probe tries each cipher on a loopback connection. Setting the TLS layer makes
// the kernel load its tls module, if it may. The error says what is missing if
// no cipher works at all; it matches errors.ErrUnsupported if the kernel, or
// the operating system, doesn't have kernel TLS. A result that says something
// about the kernel is kept for the life of the process; a failure to make the
// connections is not.
func Probe() (Support, error) {
	cachedProbe.Lock()
	defer cachedProbe.Unlock()
	if cachedProbe.conclusive {
		return cachedProbe.support, cachedProbe.err
	}
	support, err := probe()
	if err == nil || errors.Is(err, errors.ErrUnsupported) {
		cachedProbe.conclusive, cachedProbe.support, cachedProbe.err = true, support, err
	}
	return support, err
}
