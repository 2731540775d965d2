package ktls

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
)

// A tap is the connection that crypto/tls reads from and writes to: the TCP connection,
// with somebody listening in. Until the offload everything passes, and the counter counts
// it. Afterwards what crypto/tls writes goes to the relay and no further, because the
// kernel makes the records.
type tap struct {
	net.Conn // the raw connection

	// writing is held while crypto/tls writes, which may block, and by the offload.
	// Close doesn't take it.
	writing sync.Mutex

	counter recordCounter
	relay   atomic.Pointer[controlRelay] // nil until the kernel has, or may have, the key

	// flush is called when the relay may have something to send. No lock is held then but
	// those of crypto/tls.
	flush func()
}

// A handover is what the counter leaves to the relay when the kernel has taken the key.
type handover struct {
	key  writeKey
	next uint64 // sequence number of the kernel's first record, and of crypto/tls's next one
}

func newTap(raw net.Conn, flush func()) *tap {
	t := &tap{Conn: raw, flush: flush}
	t.counter.key.hellos = new(hellos)
	return t
}

// Read implements net.Conn for crypto/tls.
func (t *tap) Read(p []byte) (int, error) {
	if r := t.relay.Load(); r != nil && r.interrupt.Swap(false) {
		return 0, ErrRetired
	}
	n, err := t.Conn.Read(p)
	t.counter.read(p[:n])
	return n, err
}

// Write implements net.Conn for crypto/tls, which always writes whole records.
func (t *tap) Write(p []byte) (int, error) {
	n, relayed, err := t.write(p)
	if relayed {
		t.flush()
	}
	return n, err
}

func (t *tap) write(p []byte) (n int, relayed bool, err error) {
	t.writing.Lock()
	defer t.writing.Unlock()
	if r := t.relay.Load(); r != nil {
		n, err = r.write(p)
		return n, true, err
	}
	n, err = t.Conn.Write(p)
	t.counter.wrote(p, n, err)
	return n, false, err
}

// offload proves the sequence number of the next record. Then setKey gives the kernel
// that number and the key, and says whether the key can be replaced, which the renewal
// notes. An error is that of setKey. The state is then NotNeeded.
func (t *tap) offload(renewal *keyRenewal, setKey func(s *suite, info []byte) (rekey bool, err error)) (State, error) {
	t.writing.Lock() // a write that is under way has to be counted first
	defer t.writing.Unlock()
	p, state := t.counter.prove()
	if state != Offloaded {
		return state, nil
	}
	defer clear(p.info)
	// No other lock is held here: system calls sometimes take long, and Close needs the
	// counter's lock.
	rekey, err := setKey(p.suite, p.info)
	switch {
	case errors.Is(err, errDoubtful):
		// The kernel may encrypt what crypto/tls still has to write.
		t.relay.Store(&controlRelay{dead: err})
		return NotNeeded, err
	case err != nil:
		return NotNeeded, err
	}
	// The point of no return: from here on the kernel makes the records, and
	// every error closes the connection.
	t.handOver(p.next, rekey, renewal)
	return Offloaded, nil
}

// handOver puts the relay in the place of the counter. forget takes the same lock, so it
// finds the secret in one or the other.
func (t *tap) handOver(next uint64, rekey bool, renewal *keyRenewal) {
	t.counter.mu.Lock()
	defer t.counter.mu.Unlock()
	h := t.counter.handOver(next)
	renewal.begin(h, rekey)
	t.relay.Store(newControlRelay(h, renewal))
}

// forget zeroes the secret. Afterwards the connection can't be offloaded. If it has been,
// crypto/tls can't write any more.
func (t *tap) forget() {
	t.counter.forget()
	if r := t.relay.Load(); r != nil {
		r.forget()
	}
}

var _ net.Conn = (*tap)(nil)
