package ktls

import (
	"crypto/tls"
	"sync"
	"sync/atomic"
)

// A recordCounter counts the records that crypto/tls writes until the connection is
// offloaded. It proves then, from the last one, which number the kernel has to go on
// with: see prove. After that it is of no more use.
//
// Encrypted records count: in TLS 1.3 those of outer type 23, in TLS 1.2 all that
// follow ChangeCipherSpec.
type recordCounter struct {
	mu sync.Mutex // guards what follows but abandoned; is held for moments only

	key writeKey

	capture bool // copy each encrypted record to last
	last    []byte

	// Encrypted records of this generation of the secret. Of those that TLS
	// 1.3 has in the handshake an unknown few (session tickets) are already
	// under the application secret.
	inHandshake uint64
	since       uint64
	handshook   bool
	updated     bool // this generation began with a KeyUpdate: inHandshake is 0

	changed   bool   // ChangeCipherSpec was written
	afterward uint64 // records of the handshake since then

	// What rules the offload out for good.
	closing   bool        // an alert was written, or a write failed
	unproven  bool        // something was written that is not accounted for
	abandoned atomic.Bool // the connection is closed
}

func (c *recordCounter) setSecret(secret []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.key.set(secret)
}

// handshakeDone marks the end of the handshake: some of the records written so far
// may be under the handshake secret, later ones can't be.
func (c *recordCounter) handshakeDone(s *suite) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handshook = true
	c.key.suite = s
	if s != nil && s.version == tls.VersionTLS12 {
		c.inHandshake = c.afterward
	} else {
		c.key.hellos = nil
	}
}

// setCapture turns the copying of records on, for the one that is to prove the
// number, or off.
func (c *recordCounter) setCapture(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.capture = on
	c.last = nil
}

// forget zeroes the secret. The connection can't be offloaded any more.
func (c *recordCounter) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.key.forget()
	c.last, c.capture = nil, false
}

// abandon rules the offload out, because the connection is closed. It takes no lock.
func (c *recordCounter) abandon() { c.abandoned.Store(true) }

// read takes note of what crypto/tls has read. Only the handshake matters, in which
// nobody else looks at the hello: so it takes no lock.
func (c *recordCounter) read(p []byte) {
	if h := c.key.hellos; h != nil && !h.client.done {
		h.client.add(p)
	}
}

// wrote takes note of a write of crypto/tls, of which n bytes went out.
func (c *recordCounter) wrote(p []byte, n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.key.forgotten:
	case err != nil || n != len(p):
		c.closing = true
	default:
		if c.key.hellos != nil {
			c.key.hellos.server.add(p)
		}
		c.count(p)
	}
}

// count counts the records of p, which have been written. Caller holds c.mu.
func (c *recordCounter) count(p []byte) {
	for len(p) > 0 {
		record, rest, ok := cutRecord(p)
		if !ok {
			c.unproven = true
			return
		}
		p = rest
		typ := recordType(record[0])
		encrypted := typ == recordApplicationData || c.key.suite != nil && c.key.suite.version == tls.VersionTLS12
		if c.capture && encrypted {
			c.last = append(c.last[:0], record...)
		}
		switch {
		case !c.handshook:
			c.countHandshake(typ)
		case encrypted:
			c.since++
			c.watch(record)
		default:
			c.unproven = true
		}
	}
}

// countHandshake counts for both versions: which one it is shows at the end.
// Caller holds c.mu.
func (c *recordCounter) countHandshake(typ recordType) {
	switch {
	case typ == recordChangeCipherSpec:
		c.changed = true
		c.afterward = 0
	case c.changed:
		c.afterward++
	}
	if typ == recordApplicationData {
		c.inHandshake++
	} else if c.inHandshake > 0 {
		c.unproven = true // TLS 1.3 goes on as it has begun, and TLS 1.2 has none
	}
}
