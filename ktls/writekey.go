package ktls

import "crypto/tls"

// A writeKey is the key that crypto/tls writes under. It is made from the secret in the
// key log, and changes when crypto/tls changes its key. The recordCounter has it until
// the offload, and the controlRelay afterwards. It is guarded by the lock of whichever
// has it.
type writeKey struct {
	suite  *suite  // what was negotiated; nil before the end of the handshake, or if it can't be offloaded
	hellos *hellos // for TLS 1.2; nil once it is known that they are not needed

	secret    []byte      // server application traffic secret of this generation, or TLS 1.2's master secret
	made      *trafficKey // made from secret when somebody first asks for it
	forgotten bool        // any secret that comes is forgotten too
}

// set sets a secret. The writeKey owns it from then on.
func (k *writeKey) set(secret []byte) {
	if k.forgotten {
		clear(secret)
		return
	}
	clear(k.secret) // of a session that was offered but not resumed
	k.secret = secret
}

// get returns the key with Offloaded, or why there is none. The key is kept until drop.
func (k *writeKey) get() (*trafficKey, State) {
	if k.made != nil {
		return k.made, Offloaded
	}
	if len(k.secret) != k.suite.secretLen {
		return nil, NoSecret
	}
	var err error
	if k.suite.version == tls.VersionTLS12 {
		client, server := k.hellos.client.random(handshakeClientHello), k.hellos.server.random(handshakeServerHello)
		k.made, err = newTrafficKey12(k.suite, k.secret, client, server)
	} else {
		k.made, err = newTrafficKey13(k.suite, k.secret)
	}
	if err != nil {
		return nil, FIPS
	}
	return k.made, Offloaded
}

// next goes on to the secret that follows a KeyUpdate.
func (k *writeKey) next() error {
	secret, err := nextSecret(k.suite, k.secret)
	if err != nil {
		return err
	}
	clear(k.secret)
	k.secret = secret
	k.drop()
	return nil
}

// drop zeroes the key, but not the secret.
func (k *writeKey) drop() {
	k.made.wipe()
	k.made = nil
}

// forget zeroes everything. From then on there is no key.
func (k *writeKey) forget() {
	clear(k.secret)
	k.secret = nil
	k.drop()
	k.forgotten = true
}
