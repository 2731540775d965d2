package ktls

import (
	"errors"
	"slices"
	"strings"
	"sync"
)

// Support is what the running kernel can do for connections that send.
type Support struct {
	known uint32 // bit i stands for suites[i]

	// Rekey: the key of a TLS 1.3 connection can be replaced (Linux 6.14).
	Rekey bool
}

// Any reports whether the kernel can do any cipher suite at all.
func (s Support) Any() bool { return s.known != 0 }

// Has reports whether the kernel can do a cipher suite, of TLS 1.3 or TLS 1.2.
func (s Support) Has(suite uint16) bool {
	for i := range suites {
		if suites[i].id == suite {
			return s.known&(1<<i) != 0
		}
	}
	return false
}

// Ciphers returns the names of the ciphers, without the kinds of certificates.
func (s Support) Ciphers() []string {
	var names []string
	for i := range suites {
		if name := suites[i].String(); s.known&(1<<i) != 0 && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// String lists the ciphers.
func (s Support) String() string { return strings.Join(s.Ciphers(), ", ") }

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
	support, err := probeKernel()
	if err == nil || errors.Is(err, errors.ErrUnsupported) {
		cachedProbe.conclusive, cachedProbe.support, cachedProbe.err = true, support, err
	}
	return support, err
}
