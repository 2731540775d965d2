package ktls

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
)

// watch looks for an alert or a KeyUpdate. In TLS 1.3 it opens a record that by
// its length may be one.
func (r *recorder) watch(record []byte) {
	if r.suite == nil || r.closing || r.abandoned.Load() {
		return
	}
	if r.suite.version == tls.VersionTLS12 {
		typ := recordType(record[0])
		r.closing = r.closing || typ == recordAlert
		r.unproven = r.unproven || typ != recordAlert && typ != recordApplicationData
		return
	}
	n := len(record) - recordHeaderLen
	if n != sealedAlertLen && n != sealedKeyUpdateLen {
		return
	}
	key, reason := r.current()
	if reason != Offloaded {
		return // move gives the same reason
	}
	_, typ, content, ok := r.locate(key, record)
	switch {
	case !ok:
		r.unproven = true
	case typ == recordApplicationData:
	case typ == recordAlert:
		r.closing = true
	case typ == recordHandshake && isKeyUpdate(content):
		r.unproven = r.unproven || r.nextGeneration() != nil
	default:
		r.unproven = true
	}
}

// nextGeneration follows crypto/tls to the next traffic secret.
func (r *recorder) nextGeneration() error {
	secret, err := nextSecret(r.suite, r.secret)
	if err != nil {
		return err
	}
	clear(r.secret)
	r.secret = secret
	r.dropShadow()
	r.inHandshake, r.since, r.updated = 0, 0, true
	return nil
}

// locate opens the record that was written last, by the key of the application
// secret, and returns its sequence number, or false. The number is found, not
// computed: of the few that are possible it is the one under which the record is
// authentic.
func (r *recorder) locate(key *trafficKey, record []byte) (sequence uint64, typ recordType, content []byte, ok bool) {
	for tickets := range r.inHandshake + 1 {
		next := r.since + tickets
		if next == 0 {
			continue
		}
		if typ, content, ok := key.open(record, next-1); ok {
			r.inHandshake, r.since = 0, next // known from now on
			return next - 1, typ, content, true
		}
	}
	return 0, 0, nil, false
}

// current returns the key that crypto/tls encrypts with, which is kept.
func (r *recorder) current() (*trafficKey, State) {
	if r.shadow != nil {
		return r.shadow, Offloaded
	}
	key, reason := r.key(r.secret)
	r.shadow = key
	return key, reason
}

func (r *recorder) dropShadow() {
	r.shadow.wipe()
	r.shadow = nil
}

func (r *recorder) key(secret []byte) (*trafficKey, State) {
	if len(secret) != r.suite.secretLen {
		return nil, NoSecret
	}
	var key *trafficKey
	var err error
	if r.suite.version == tls.VersionTLS12 {
		client, server := r.hellos.client.random(handshakeClientHello), r.hellos.server.random(handshakeServerHello)
		key, err = newTrafficKey12(r.suite, secret, client, server)
	} else {
		key, err = newTrafficKey13(r.suite, secret)
	}
	if err != nil {
		return nil, FIPS
	}
	return key, Offloaded
}

// prove returns the sequence number of the record that comes next, as the
// record that was written last shows it, with Offloaded for a reason. The key is
// that of the application secret.
func (r *recorder) prove(key *trafficKey) (next uint64, reason State) {
	if r.updated && r.since == 0 {
		return 0, Offloaded // the KeyUpdate has been opened: watch
	}
	sequence, typ, _, ok := r.locate(key, r.last)
	if !ok || typ != recordApplicationData {
		return 0, SequenceUnproven
	}
	return sequence + 1, Offloaded
}

// move proves the sequence number and lets install give key and number to the
// kernel, and tell whether the key can be replaced. The error belongs to the reason
// KernelRefused.
func (r *recorder) move(install func(s *suite, info []byte) (rekey bool, err error)) (State, error) {
	r.wire.Lock() // what is being written has to be accounted for
	defer r.wire.Unlock()
	info, next, reason := r.proved()
	if reason != Offloaded {
		return reason, nil
	}
	defer clear(info)
	// System calls take their time now and then, and Close wants mu.
	rekey, err := install(r.suite, info)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case errors.Is(err, errDoubtful):
		// The kernel may encrypt what crypto/tls still has to write.
		r.dead = err
		r.moved.Store(true)
		return KernelRefused, err
	case err != nil:
		return KernelRefused, err
	}
	// The point of no return: from here on the kernel makes the records, and
	// every error closes the connection.
	r.first, r.number = next, next
	if r.rekey = rekey && !r.gone; r.rekey {
		r.sending = bytes.Clone(r.secret)
	}
	r.moved.Store(true)
	r.last, r.capture = nil, false
	return Offloaded, nil
}

// proved returns the crypto info with the proved number, which is next.
func (r *recorder) proved() (info []byte, next uint64, reason State) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.suite == nil:
		return nil, 0, Cipher
	case r.closing, r.abandoned.Load():
		return nil, 0, Closing
	case r.unproven:
		return nil, 0, SequenceUnproven
	}
	key, reason := r.current()
	if reason != Offloaded {
		return nil, 0, reason
	}
	defer r.dropShadow() // it is seldom needed afterwards
	if next, reason = r.prove(key); reason != Offloaded {
		return nil, 0, reason
	}
	return cryptoInfo(key, next), next, Offloaded
}

// nextKey returns the crypto info of the kernel's next key, and goes on to it.
func (r *recorder) nextKey() ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sending == nil {
		return nil, net.ErrClosed // the secrets are forgotten
	}
	secret, err := nextSecret(r.suite, r.sending)
	if err != nil {
		return nil, err
	}
	clear(r.sending)
	r.sending = secret
	key, err := newTrafficKey13(r.suite, secret)
	if err != nil {
		return nil, err
	}
	defer key.wipe()
	return cryptoInfo(key, 0), nil
}
