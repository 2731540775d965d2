package ktls

import (
	"net"
	"sync"
	"sync/atomic"
)

// A recorder stands between crypto/tls and the TCP connection. Before the
// switch it counts the records that crypto/tls writes, and proves from the last
// one which sequence number the kernel has to go on with. After the switch it
// turns what crypto/tls still writes by itself (alerts, answers to KeyUpdate)
// into control messages for the kernel.
//
// Only records of outer type 23 count: in TLS 1.3 those are the encrypted ones.
type recorder struct {
	net.Conn // the raw connection

	// flush is called, without mu, when waiting may have been set.
	flush func()

	mu sync.Mutex

	suite    *suite // negotiated; nil before the end of the handshake, or if it can't be offloaded
	secret   []byte // server application traffic secret of the current generation
	hsSecret []byte // server handshake traffic secret, if keepHandshake

	keepHandshake bool // the switch follows the handshake at once
	capture       bool // copy each encrypted record to last
	last          []byte

	// Encrypted records of this generation of the secret. Of those written
	// in the handshake an unknown few (session tickets) are already under
	// the application secret.
	inHandshake uint64
	since       uint64
	handshook   bool
	updated     bool // this generation began with a KeyUpdate: inHandshake is 0

	closing  bool // an alert was written or a write failed: never move
	unproven bool // something was written that is not accounted for: never move

	moved atomic.Bool

	// After the switch.
	shadow  *trafficKey // what crypto/tls encrypts with; made when first needed
	number  uint64      // of crypto/tls's next record
	pending []control
	waiting atomic.Bool // there is something to take: pending, or dead

	// dead is why no more application data may be sent.
	dead error

	// retired asks for the end of the connection after the response in
	// flight: the peer wants a KeyUpdate.
	retired atomic.Bool
}

func (r *recorder) setSecret(label string, secret []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case label == labelTrafficSecret:
		r.secret = secret
	case r.keepHandshake:
		r.hsSecret = secret
	default:
		clear(secret)
	}
}

// handshakeDone marks the end of the handshake: records written so far may be
// under the handshake secret, later ones can't be.
func (r *recorder) handshakeDone(s *suite) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.handshook = true
	r.suite = s
}

// setCapture turns the copying of records on, for the one that is to prove the
// sequence number, or off.
func (r *recorder) setCapture(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.capture = on
	r.last = nil
}

// forget zeroes the secrets. The connection can't be moved afterwards, and if
// it has been, crypto/tls can't write any more.
func (r *recorder) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forgetHandshake()
	clear(r.secret)
	r.shadow.wipe()
	r.secret, r.shadow = nil, nil
}

func (r *recorder) forgetHandshake() {
	clear(r.hsSecret)
	r.hsSecret, r.last, r.capture = nil, nil, false
}

// Write implements net.Conn for crypto/tls, which always hands over whole
// records.
func (r *recorder) Write(p []byte) (int, error) {
	n, diverted, err := r.write(p)
	if diverted {
		r.flush()
	}
	return n, err
}

func (r *recorder) write(p []byte) (n int, diverted bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.moved.Load() {
		n, err = r.divert(p)
		return n, true, err
	}
	n, err = r.Conn.Write(p)
	if err != nil || n != len(p) {
		r.closing = true
		return n, false, err
	}
	r.account(p)
	return n, false, nil
}

// account counts the records of p, which have been written.
func (r *recorder) account(p []byte) {
	for len(p) > 0 {
		record, rest, ok := cutRecord(p)
		if !ok {
			r.unproven = true
			return
		}
		p = rest
		if recordType(record[0]) != recordApplicationData {
			// Plaintext is normal until the first encrypted record.
			r.unproven = r.unproven || r.handshook || r.inHandshake > 0
			continue
		}
		if r.capture {
			r.last = append(r.last[:0], record...)
		}
		if !r.handshook {
			r.inHandshake++
			continue
		}
		r.since++
		r.watch(record)
	}
}
