package ktls

import (
	"errors"
	"slices"
	"strings"
)

// Support says what the running kernel can do for connections that send.
type Support struct {
	known uint32 // bit i stands for suites[i]

	// Rekey says that the key of a TLS 1.3 connection can be replaced (Linux 6.14).
	Rekey bool
}

// Any reports whether the kernel can do any cipher suite at all.
func (s Support) Any() bool { return s.known != 0 }

// Has reports whether the kernel can do a cipher suite of TLS 1.3 or TLS 1.2. suite is
// its ID, as in crypto/tls.
func (s Support) Has(suite uint16) bool {
	for i := range suites {
		if suites[i].id == suite {
			return s.known&(1<<i) != 0
		}
	}
	return false
}

// Ciphers returns the TLS version and cipher of each suite that the kernel can do. Suites
// that differ only in the kind of certificate are listed once.
func (s Support) Ciphers() []string {
	var names []string
	for i := range suites {
		if name := suites[i].String(); s.known&(1<<i) != 0 && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// String lists the ciphers, separated by commas.
func (s Support) String() string { return strings.Join(s.Ciphers(), ", ") }

// An UnsupportedError says why the kernel has no kernel TLS, or lacks a cipher. It matches
// errors.ErrUnsupported.
type UnsupportedError struct {
	Cause string // in words
	Err   error  // of the system call that has shown it, or nil
}

// Error returns the cause and the error of the system call.
func (e *UnsupportedError) Error() string {
	if e.Err == nil {
		return "ktls: " + e.Cause
	}
	return "ktls: " + e.Cause + ": " + e.Err.Error()
}

// Unwrap returns the error of the system call.
func (e *UnsupportedError) Unwrap() error { return e.Err }

// NoLayer reports whether the kernel has no TLS layer at all.
func (e *UnsupportedError) NoLayer() bool { return errors.Is(e.Err, errSetULP) }

// Is reports whether target is errors.ErrUnsupported.
func (e *UnsupportedError) Is(target error) bool { return target == errors.ErrUnsupported }

// ErrUntrusted is the error of [Probe] after a connection has shown that the kernel, or a
// sandbox around the process, says that it encrypts and does not. [ProbeAgain] gives the
// kernel another chance.
var ErrUntrusted = errors.New("ktls: the kernel can't be trusted")

// errInert says that the kernel, or a sandbox around the process, reports success but
// does nothing.
var errInert error = &UnsupportedError{Cause: "the kernel, or a sandbox around this program, takes keys and encrypts nothing"}

// errDoubtful says that nobody knows whether the kernel encrypts.
var errDoubtful = errors.New("ktls: the kernel does not confirm the key that it was given")
