package ktls

import (
	"crypto/tls"
	"errors"
	"slices"
)

// A control is a record other than application data.
type control struct {
	typ  recordType
	body []byte
}

var (
	errForeignRecord = errors.New("ktls: crypto/tls wrote a record that is not authentic under its own key")
	errAlertSent     = errors.New("ktls: connection ended by an alert")
)

// divert opens what crypto/tls has encrypted after the switch and queues what
// the peer has to see of it.
func (r *recorder) divert(p []byte) (int, error) {
	if r.dead != nil {
		return 0, r.dead
	}
	for rest := p; len(rest) > 0; {
		record, tail, ok := cutRecord(rest)
		if !ok || !r.divertRecord(record) {
			r.dead = errForeignRecord
			r.waiting.Store(true) // whoever sends next has to see it
			return 0, r.dead
		}
		rest = tail
	}
	return len(p), nil
}

func (r *recorder) divertRecord(record []byte) bool {
	key, reason := r.current()
	if reason != Offloaded {
		return false
	}
	typ, content, ok := key.open(record, r.number)
	if !ok {
		return false
	}
	r.number++
	switch {
	case typ == recordAlert && len(content) == 2:
		r.pending = append(r.pending, control{typ, content})
		r.waiting.Store(true)
		if content[1] != alertCloseNotify {
			r.dead = errAlertSent
		}
		return true
	case typ == recordHandshake && r.suite.version == tls.VersionTLS13 && isKeyUpdate(content):
		r.number = 0
		r.answerKeyUpdate()
		return r.nextGeneration() == nil
	}
	return false
}

// answerKeyUpdate queues a KeyUpdate of our own. One that waits already answers
// for all requests up to now (RFC 8446, section 4.6.3). If the kernel can't
// follow, nothing is sent: the peer can't tell that from an answer behind the
// data in flight. crypto/tls has to believe that it went out, or it would not
// follow the peer's key.
func (r *recorder) answerKeyUpdate() {
	if !r.rekey {
		if !r.retired.Swap(true) {
			r.interrupt.Store(true)
		}
		return
	}
	if !slices.ContainsFunc(r.pending, func(c control) bool { return c.typ == recordHandshake }) {
		r.pending = append(r.pending, control{recordHandshake, keyUpdate[:]})
	}
	r.waiting.Store(true)
}

// takePending returns the queued control records, and why nothing may follow
// them, if so.
func (r *recorder) takePending() ([]control, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.pending
	r.pending = nil
	r.waiting.Store(false)
	return p, r.dead
}

// putBack queues control records again that could not be sent.
func (r *recorder) putBack(controls []control) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pending = append(controls, r.pending...)
	r.waiting.Store(true)
}

// isKeyUpdate reports whether a handshake message is a whole KeyUpdate
// (RFC 8446, section 4.6.3).
func isKeyUpdate(message []byte) bool {
	return len(message) == 5 && message[0] == handshakeKeyUpdate &&
		message[1] == 0 && message[2] == 0 && message[3] == 1 && message[4] <= 1
}
