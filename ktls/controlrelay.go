package ktls

import (
	"crypto/tls"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
)

// A controlRelay gets what crypto/tls writes after the offload: alerts and answers to
// KeyUpdates, which crypto/tls has encrypted under its own key. The relay opens these
// records, and queues what the peer must see of them. Whoever sends next gives that to
// the kernel.
type controlRelay struct {
	mu sync.Mutex // guards what follows, except atomics; held for moments only

	key     writeKey
	number  uint64 // sequence number of crypto/tls's next record
	pending []control
	dead    error // why no more application data may be sent

	waiting   atomic.Bool // there is something to take: pending, or dead
	interrupt atomic.Bool // Read must return, so that Conn.Read does

	renewal *keyRenewal // the kernel's key; nil, with dead set, if nobody knows whether the kernel has one
}

// A control is a record other than application data.
type control struct {
	typ  recordType
	body []byte
}

var (
	errForeignRecord = errors.New("ktls: crypto/tls wrote a record that is not authentic under its own key")
	errAlertSent     = errors.New("ktls: connection ended by an alert")
)

func newControlRelay(h handover, renewal *keyRenewal) *controlRelay {
	return &controlRelay{key: h.key, number: h.next, renewal: renewal}
}

// due reports whether there is something to take. Before the offload r is nil, and there
// is nothing.
func (r *controlRelay) due() bool { return r != nil && r.waiting.Load() }

// write takes a write of crypto/tls, which has whole records.
func (r *controlRelay) write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dead != nil {
		return 0, r.dead
	}
	for rest := p; len(rest) > 0; {
		record, tail, ok := cutRecord(rest)
		if !ok || !r.queue(record) {
			r.dead = errForeignRecord
			r.waiting.Store(true) // whoever sends next has to see it
			return 0, r.dead
		}
		rest = tail
	}
	return len(p), nil
}

// queue queues what a record says, and reports whether crypto/tls can have written it.
// Caller holds r.mu.
func (r *controlRelay) queue(record []byte) bool {
	key, state := r.key.get()
	if state != Offloaded {
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
	case typ == recordHandshake && r.key.suite.version == tls.VersionTLS13 && isKeyUpdate(content):
		r.number = 0
		r.answerKeyUpdate()
		return r.key.next() == nil
	}
	return false
}

// answerKeyUpdate queues a KeyUpdate of our own. A KeyUpdate that already waits answers
// all requests up to now (RFC 8446, section 4.6.3). If the kernel can't replace its key,
// nothing is sent: to the peer it looks as if the answer were behind the data in flight.
// crypto/tls must believe that its answer went out, or it would not follow the peer's
// key. Caller holds r.mu.
func (r *controlRelay) answerKeyUpdate() {
	if !r.renewal.can {
		if r.renewal.retire() {
			r.interrupt.Store(true)
		}
		return
	}
	if !slices.ContainsFunc(r.pending, func(c control) bool { return c.typ == recordHandshake }) {
		r.pending = append(r.pending, control{recordHandshake, keyUpdate[:]})
	}
	r.waiting.Store(true)
}

// take returns the queued control records. It also returns an error if nothing may follow
// them.
func (r *controlRelay) take() ([]control, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.pending
	r.pending = nil
	r.waiting.Store(false)
	return p, r.dead
}

// putBack queues again the control records that could not be sent.
func (r *controlRelay) putBack(controls []control) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pending = append(controls, r.pending...)
	r.waiting.Store(true)
}

// forget zeroes the secret. crypto/tls can't write any more.
func (r *controlRelay) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.key.forget()
}

// isKeyUpdate reports whether a handshake message is a whole KeyUpdate
// (RFC 8446, section 4.6.3).
func isKeyUpdate(message []byte) bool {
	return len(message) == 5 && message[0] == handshakeKeyUpdate &&
		message[1] == 0 && message[2] == 0 && message[3] == 1 && message[4] <= 1
}
