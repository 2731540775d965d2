package ktls

import "crypto/tls"

// A proof is what the kernel needs to go on where crypto/tls has stopped.
type proof struct {
	suite *suite
	next  uint64 // sequence number of the next record
	info  []byte // crypto info for the kernel, with the key and that number; to be cleared
}

// prove returns a proof with Offloaded, or why there is none. A wrong sequence number
// would make the kernel use a nonce of AES-GCM twice. So the number is not computed from
// the counts, but found: it follows the number under which the last record opens.
func (rc *recordCounter) prove() (proof, State) {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	switch {
	case rc.key.suite == nil:
		return proof{}, Cipher
	case rc.closing:
		return proof{}, Closing
	case rc.unproven:
		return proof{}, SequenceUnproven
	}
	key, state := rc.key.get()
	if state != Offloaded {
		return proof{}, state
	}
	defer rc.key.drop() // the key is seldom needed afterwards
	next, ok := rc.proveNext(key)
	if !ok {
		return proof{}, SequenceUnproven
	}
	return proof{suite: rc.key.suite, next: next, info: cryptoInfo(key, next)}, Offloaded
}

// proveNext returns the sequence number of the next record, as the last record shows it,
// or false. Caller holds rc.mu.
func (rc *recordCounter) proveNext(key *trafficKey) (next uint64, ok bool) {
	if rc.updated && rc.since == 0 {
		return 0, true // watch has opened the KeyUpdate
	}
	number, typ, _, ok := rc.locate(key, rc.last)
	return number + 1, ok && typ == recordApplicationData
}

// locate opens the record that was written last and returns its sequence number, or
// false. Only a few numbers are possible. The right one is the one under which the record
// is authentic. Caller holds rc.mu.
func (rc *recordCounter) locate(key *trafficKey, record []byte) (number uint64, typ recordType, content []byte, ok bool) {
	for tickets := range rc.inHandshake + 1 {
		next := rc.since + tickets
		if next == 0 {
			continue
		}
		if typ, content, ok := key.open(record, next-1); ok {
			rc.inHandshake, rc.since = 0, next // known from now on
			return next - 1, typ, content, true
		}
	}
	return 0, 0, nil, false
}

// watch looks for an alert or a KeyUpdate. In TLS 1.3 it opens a record whose length fits
// one of them. Caller holds rc.mu.
func (rc *recordCounter) watch(record []byte) {
	if rc.key.suite == nil || rc.closing {
		return
	}
	if rc.key.suite.version == tls.VersionTLS12 {
		typ := recordType(record[0])
		rc.closing = rc.closing || typ == recordAlert
		rc.unproven = rc.unproven || typ != recordAlert && typ != recordApplicationData
		return
	}
	n := len(record) - recordHeaderLen
	if n != sealedAlertLen && n != sealedKeyUpdateLen {
		return
	}
	key, state := rc.key.get()
	if state != Offloaded {
		return // prove returns the same state
	}
	_, typ, content, ok := rc.locate(key, record)
	switch {
	case !ok:
		rc.unproven = true
	case typ == recordApplicationData:
	case typ == recordAlert:
		rc.closing = true
	case typ == recordHandshake && isKeyUpdate(content):
		rc.unproven = rc.unproven || rc.key.next() != nil
		rc.inHandshake, rc.since, rc.updated = 0, 0, true
	default:
		rc.unproven = true
	}
}

// handOver ends the counting, and hands over the key and the next sequence number. Caller
// holds rc.mu.
func (rc *recordCounter) handOver(next uint64) handover {
	h := handover{rc.key, next}
	rc.key.secret, rc.key.made = nil, nil // they belong to the handover now
	rc.last, rc.capture = nil, false
	return h
}
