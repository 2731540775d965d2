package ktls

import (
	"crypto/tls"
	"sync"
)

// A recordCounter counts the records that crypto/tls writes until the connection is
// offloaded. Then it proves, from the last record, with which sequence number the kernel
// has to go on, see prove. After that it has nothing to do.
//
// Only encrypted records count: in TLS 1.3 those of outer type 23, in TLS 1.2 all that
// follow ChangeCipherSpec.
type recordCounter struct {
	mu sync.Mutex // guards what follows; held for moments only

	key writeKey

	capture bool // copy each encrypted record to last
	last    []byte

	// Encrypted records of this generation of the secret. In TLS 1.3 an unknown few of
	// those in the handshake (session tickets) are already under the application secret.
	inHandshake uint64
	since       uint64
	handshook   bool
	updated     bool // this generation began with a KeyUpdate: inHandshake is 0

	changed   bool   // ChangeCipherSpec was written
	afterward uint64 // encrypted records of the handshake since then

	// What rules the offload out for good.
	closing  bool // an alert was written, or a write failed
	unproven bool // something was written that is not accounted for
}

func (rc *recordCounter) setSecret(secret []byte) {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	rc.key.set(secret)
}

// handshakeDone marks the end of the handshake. Some of the records written so far may be
// under the handshake secret. Later ones can't be.
func (rc *recordCounter) handshakeDone(s *suite) {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	rc.handshook = true
	rc.key.suite = s
	if s != nil && s.version == tls.VersionTLS12 {
		rc.inHandshake = rc.afterward
	} else {
		rc.key.hellos = nil
	}
}

// setCapture turns the copying of records on or off. It is on for the record that is to
// prove the sequence number.
func (rc *recordCounter) setCapture(on bool) {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	rc.capture = on
	rc.last = nil
}

// forget zeroes the secret. The connection can't be offloaded any more.
func (rc *recordCounter) forget() {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	rc.key.forget()
	rc.last, rc.capture = nil, false
}

// read notes what crypto/tls has read. It takes no lock: only the handshake matters, and
// nobody else looks at the hello during the handshake.
func (rc *recordCounter) read(p []byte) {
	if h := rc.key.hellos; h != nil && !h.client.done {
		h.client.add(p)
	}
}

// wrote notes a write of crypto/tls, of which n bytes went out.
func (rc *recordCounter) wrote(p []byte, n int, err error) {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	switch {
	case rc.key.forgotten:
	case err != nil || n != len(p):
		rc.closing = true
	default:
		if rc.key.hellos != nil {
			rc.key.hellos.server.add(p)
		}
		rc.count(p)
	}
}

// count counts the records in p, which were written. Caller holds rc.mu.
func (rc *recordCounter) count(p []byte) {
	for len(p) > 0 {
		record, rest, ok := cutRecord(p)
		if !ok {
			rc.unproven = true
			return
		}
		p = rest
		typ := recordType(record[0])
		encrypted := typ == recordApplicationData || rc.key.suite != nil && rc.key.suite.version == tls.VersionTLS12
		if rc.capture && encrypted {
			rc.last = append(rc.last[:0], record...)
		}
		switch {
		case !rc.handshook:
			rc.countHandshake(typ)
		case encrypted:
			rc.since++
			rc.watch(record)
		default:
			rc.unproven = true
		}
	}
}

// countHandshake counts for both versions, because the version is known only at the end.
// Caller holds rc.mu.
func (rc *recordCounter) countHandshake(typ recordType) {
	switch {
	case typ == recordChangeCipherSpec:
		rc.changed = true
		rc.afterward = 0
	case rc.changed:
		rc.afterward++
	}
	if typ == recordApplicationData {
		rc.inHandshake++
	} else if rc.inHandshake > 0 {
		rc.unproven = true // TLS 1.3 goes on with encrypted records, and TLS 1.2 has none of type 23 here
	}
}
