package ktls

import (
	"crypto/tls"
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
// Encrypted records count: in TLS 1.3 those of outer type 23, in TLS 1.2 all that
// follow ChangeCipherSpec.
type recorder struct {
	net.Conn // the raw connection

	// flush is called when waiting may have been set, without a lock but those
	// of crypto/tls.
	flush func()

	// wire is held while crypto/tls writes, which may block, and by the
	// switch. Close doesn't take it.
	wire sync.Mutex

	mu sync.Mutex // guards what follows but atomics, and is held for moments only

	suite  *suite // negotiated; nil before the end of the handshake, or if it can't be offloaded
	secret []byte // server application traffic secret of crypto/tls's generation, or TLS 1.2's master secret

	hellos *hellos // nil when it is known that they are not needed

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

	closing  bool // an alert was written or a write failed: never move
	gone     bool // the secrets are forgotten, and so are any that come
	unproven bool // something was written that is not accounted for: never move

	abandoned atomic.Bool // the connection is closed: never move
	moved     atomic.Bool

	// After the switch.
	first   uint64      // number of the kernel's first record
	sending []byte      // traffic secret of the kernel's generation, if it can be followed by another
	rekey   bool        // the kernel can replace a key
	shadow  *trafficKey // what crypto/tls encrypts with; made when first needed, also before
	number  uint64      // of crypto/tls's next record
	pending []control
	waiting atomic.Bool // there is something to take: pending, or dead

	// dead is why no more application data may be sent.
	dead error

	retired   atomic.Bool // see Conn.Retired
	interrupt atomic.Bool // Read is to return, for Conn.Read to return
}

// ErrRetired is returned by Read if [Options] ask for it. Like a timeout it does
// no harm: the next Read goes on where this one has stopped.
var ErrRetired net.Error = retiredError{}

type retiredError struct{}

func (retiredError) Error() string   { return "ktls: connection retired" }
func (retiredError) Timeout() bool   { return true }
func (retiredError) Temporary() bool { return true }

func (r *recorder) setSecret(secret []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gone {
		clear(secret)
		return
	}
	clear(r.secret) // of a session that was offered but not resumed
	r.secret = secret
}

// handshakeDone marks the end of the handshake: records written so far may be
// under the handshake secret, later ones can't be.
func (r *recorder) handshakeDone(s *suite) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.handshook = true
	r.suite = s
	if s != nil && s.version == tls.VersionTLS12 {
		r.inHandshake = r.afterward
	} else {
		r.hellos = nil
	}
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
	clear(r.secret)
	clear(r.sending)
	r.secret, r.sending = nil, nil
	r.last, r.capture = nil, false
	r.dropShadow()
	r.gone = true
}

// Read implements net.Conn for crypto/tls.
func (r *recorder) Read(p []byte) (int, error) {
	if r.interrupt.Swap(false) {
		return 0, ErrRetired
	}
	n, err := r.Conn.Read(p)
	if h := r.hellos; h != nil && !h.client.done { // during the handshake: without mu
		h.client.add(p[:n])
	}
	return n, err
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
	r.wire.Lock()
	defer r.wire.Unlock()
	if !r.moved.Load() {
		n, err = r.Conn.Write(p)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.moved.Load():
		n, err = r.divert(p)
		return n, true, err
	case r.gone:
	case err != nil || n != len(p):
		r.closing = true
	default:
		if r.hellos != nil {
			r.hellos.server.add(p)
		}
		r.account(p)
	}
	return n, false, err
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
		typ := recordType(record[0])
		encrypted := typ == recordApplicationData || r.suite != nil && r.suite.version == tls.VersionTLS12
		if r.capture && encrypted {
			r.last = append(r.last[:0], record...)
		}
		switch {
		case !r.handshook:
			r.accountHandshake(typ)
		case encrypted:
			r.since++
			r.watch(record)
		default:
			r.unproven = true
		}
	}
}

// accountHandshake counts for both versions: which one it is shows at the end.
func (r *recorder) accountHandshake(typ recordType) {
	switch {
	case typ == recordChangeCipherSpec:
		r.changed = true
		r.afterward = 0
	case r.changed:
		r.afterward++
	}
	if typ == recordApplicationData {
		r.inHandshake++
	} else if r.inHandshake > 0 {
		r.unproven = true // TLS 1.3 goes on as it has begun, and TLS 1.2 has none
	}
}
