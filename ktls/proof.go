package ktls

import "crypto/tls"

// A proof is what the kernel needs to go on where crypto/tls has stopped.
type proof struct {
	suite *suite
	next  uint64 // number of the next record
	info  []byte // for the kernel, with the key and that number; to be cleared
}

// A handover is what the counter leaves behind when the kernel has taken the key.
type handover struct {
	key  writeKey
	next uint64 // number of the kernel's first record, and of crypto/tls's next one
}

// prove returns a proof, with Offloaded, or why there is none. A wrong number would
// have the kernel use a nonce of AES-GCM twice. So it is not computed from what was
// counted, but found: it is the one after that under which the last record opens.
func (c *recordCounter) prove() (proof, State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.key.suite == nil:
		return proof{}, Cipher
	case c.closing, c.abandoned.Load():
		return proof{}, Closing
	case c.unproven:
		return proof{}, SequenceUnproven
	}
	key, state := c.key.get()
	if state != Offloaded {
		return proof{}, state
	}
	defer c.key.drop() // it is seldom needed afterwards
	next, ok := c.proveNext(key)
	if !ok {
		return proof{}, SequenceUnproven
	}
	return proof{suite: c.key.suite, next: next, info: cryptoInfo(key, next)}, Offloaded
}

// proveNext returns the number of the next record, as the last one shows it, or false.
// Caller holds c.mu.
func (c *recordCounter) proveNext(key *trafficKey) (next uint64, ok bool) {
	if c.updated && c.since == 0 {
		return 0, true // the KeyUpdate has been opened: watch
	}
	number, typ, _, ok := c.locate(key, c.last)
	return number + 1, ok && typ == recordApplicationData
}

// locate opens the record that was written last and returns its number, or false.
// Of the few numbers that are possible it is the one under which the record is
// authentic. Caller holds c.mu.
func (c *recordCounter) locate(key *trafficKey, record []byte) (number uint64, typ recordType, content []byte, ok bool) {
	for tickets := range c.inHandshake + 1 {
		next := c.since + tickets
		if next == 0 {
			continue
		}
		if typ, content, ok := key.open(record, next-1); ok {
			c.inHandshake, c.since = 0, next // known from now on
			return next - 1, typ, content, true
		}
	}
	return 0, 0, nil, false
}

// watch looks for an alert or a KeyUpdate. In TLS 1.3 it opens a record that by its
// length may be one. Caller holds c.mu.
func (c *recordCounter) watch(record []byte) {
	if c.key.suite == nil || c.closing || c.abandoned.Load() {
		return
	}
	if c.key.suite.version == tls.VersionTLS12 {
		typ := recordType(record[0])
		c.closing = c.closing || typ == recordAlert
		c.unproven = c.unproven || typ != recordAlert && typ != recordApplicationData
		return
	}
	n := len(record) - recordHeaderLen
	if n != sealedAlertLen && n != sealedKeyUpdateLen {
		return
	}
	key, state := c.key.get()
	if state != Offloaded {
		return // prove tells the same
	}
	_, typ, content, ok := c.locate(key, record)
	switch {
	case !ok:
		c.unproven = true
	case typ == recordApplicationData:
	case typ == recordAlert:
		c.closing = true
	case typ == recordHandshake && isKeyUpdate(content):
		c.unproven = c.unproven || c.key.next() != nil
		c.inHandshake, c.since, c.updated = 0, 0, true
	default:
		c.unproven = true
	}
}

// handOver ends the counting. Caller holds c.mu.
func (c *recordCounter) handOver(next uint64) handover {
	h := handover{c.key, next}
	c.key.secret, c.key.made = nil, nil // they are the handover's now
	c.last, c.capture = nil, false
	return h
}
