package ktls

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
)

// A tap is the connection that crypto/tls reads from and writes to: the TCP connection
// with somebody listening. Until the offload everything passes, and the counter counts
// it. Afterwards what crypto/tls writes goes to the relay and no further, because the
// kernel makes the records.
type tap struct {
	net.Conn // the raw connection

	// writing is held while crypto/tls writes, which may block, and by the offload.
	// Close doesn't take it.
	writing sync.Mutex

	counter recordCounter
	relay   atomic.Pointer[controlRelay] // nil until the kernel has the key, or may have it

	// flush is called when the relay may have something to send, without a lock but
	// those of crypto/tls.
	flush func()
}

// A handover is what the counter leaves behind when the kernel has taken the key.
type handover struct {
	key  writeKey
	next uint64 // number of the kernel's first record, and of crypto/tls's next one
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

// Write implements net.Conn for crypto/tls, which always hands over whole records.
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

// offload proves the number of the next record, and lets setKey give it to the kernel
// with the key, and tell whether the key can be replaced. The renewal is told so. An
// error is that of setKey; the state is NotNeeded then.
func (t *tap) offload(renewal *keyRenewal, setKey func(s *suite, info []byte) (rekey bool, err error)) (State, error) {
	t.writing.Lock() // what is being written has to be counted
	defer t.writing.Unlock()
	p, state := t.counter.prove()
	if state != Offloaded {
		return state, nil
	}
	defer clear(p.info)
	// System calls take their time now and then, and Close wants the counter's lock.
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

// handOver puts the relay in the counter's place. forget, which takes the same lock,
// finds the secret in the one or the other.
func (t *tap) handOver(next uint64, rekey bool, renewal *keyRenewal) {
	t.counter.mu.Lock()
	defer t.counter.mu.Unlock()
	h := t.counter.handOver(next)
	renewal.begin(h, rekey)
	t.relay.Store(newControlRelay(h, renewal))
}

// forget zeroes the secret. The connection can't be offloaded afterwards, and if it
// has been, crypto/tls can't write any more.
func (t *tap) forget() {
	t.counter.forget()
	if r := t.relay.Load(); r != nil {
		r.forget()
	}
}

var _ net.Conn = (*tap)(nil)
