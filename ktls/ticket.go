package ktls

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"time"
)

// unwrapSession opens a session ticket as the configuration wants it, by default as
// crypto/tls does. From a TLS 1.2 session it takes the master secret, because the key log
// has no line for a session that is resumed.
func (s *Server) unwrapSession(
	counter *recordCounter, chosen *tls.Config, ticket []byte, state tls.ConnectionState,
) (*tls.SessionState, error) {
	unwrap := chosen.UnwrapSession
	if unwrap == nil {
		unwrap = func(ticket []byte, state tls.ConnectionState) (*tls.SessionState, error) {
			return s.decryptTicket(chosen, ticket, state)
		}
	}
	session, err := unwrap(ticket, state)
	if session == nil || err != nil || state.Version != tls.VersionTLS12 {
		return session, err
	}
	// An error means that crypto/tls can't resume it either.
	if encoded, err := session.Bytes(); err == nil {
		if secret := masterSecretOf(encoded); secret != nil {
			counter.setSecret(bytes.Clone(secret))
		}
		clear(encoded)
	}
	return session, nil
}

// decryptTicket opens a ticket with the keys of the chosen configuration if they were
// set, otherwise with those of the Server's configuration. crypto/tls does the same
// without UnwrapSession.
func (s *Server) decryptTicket(chosen *tls.Config, ticket []byte, state tls.ConnectionState) (*tls.SessionState, error) {
	if len(ticket) == 0 {
		return nil, nil // the TLS 1.2 client has no ticket
	}
	if chosen == s.config {
		return chosen.DecryptTicket(ticket, state)
	}
	own := setKeysOnly(chosen)
	session, err := own.DecryptTicket(ticket, state)
	if session != nil || err != nil {
		return session, err
	}
	session, err = s.config.DecryptTicket(ticket, state)
	if session == nil || err != nil {
		return nil, err
	}
	// If two clones have the same keys, the keys were set, and only they count.
	if sealed, err := own.EncryptTicket(state, session); err == nil {
		if opened, _ := setKeysOnly(chosen).DecryptTicket(sealed, state); opened != nil {
			return nil, nil
		}
	}
	return session, nil
}

// setKeysOnly returns a clone that has the ticket keys that were set. If none were, the
// clone makes its own. Keys that the configuration has made by itself, for example when
// somebody calls its DecryptTicket (HTTP/3 does), are not used for connections: in the
// clone they have expired.
func setKeysOnly(config *tls.Config) *tls.Config {
	config = config.Clone()
	config.Time = func() time.Time { return time.Now().AddDate(100, 0, 0) }
	return config
}

// masterSecretOf returns the secret in the encoding of a TLS 1.2 session, as
// tls.SessionState describes it, or nil. If the encoding changes, the secret is wrong and
// proves nothing.
func masterSecretOf(encoded []byte) []byte {
	const head = 2 + 1 + 2 + 8 // version, type, cipher suite, time
	if len(encoded) <= head+masterSecretLen ||
		binary.BigEndian.Uint16(encoded) != tls.VersionTLS12 ||
		encoded[head] != masterSecretLen {
		return nil
	}
	return encoded[head+1:][:masterSecretLen]
}
