package ktls

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
)

// unwrapSession opens a session ticket as crypto/tls does by itself, or as the
// configuration wants it, and takes the master secret of a TLS 1.2 session,
// which no key log line tells when the session is resumed.
func (s *Server) unwrapSession(
	rec *recorder, chosen *tls.Config, ticket []byte, state tls.ConnectionState,
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
			rec.setSecret(labelMasterSecret, bytes.Clone(secret))
		}
		clear(encoded)
	}
	return session, nil
}

// decryptTicket opens a ticket with the keys of the chosen configuration, if
// they were set, and else with those of the Server's, which is what crypto/tls
// does without UnwrapSession.
func (s *Server) decryptTicket(chosen *tls.Config, ticket []byte, state tls.ConnectionState) (*tls.SessionState, error) {
	if len(ticket) == 0 {
		return nil, nil // a client of TLS 1.2 that has none
	}
	// A clone has the keys that were set; others it makes for itself.
	own := chosen.Clone()
	session, err := own.DecryptTicket(ticket, state)
	if session != nil || err != nil {
		return session, err
	}
	session, err = s.recording.DecryptTicket(ticket, state)
	if session == nil || err != nil {
		return nil, err
	}
	// If two clones have the same keys, keys were set, and only they count.
	sealed, err := own.EncryptTicket(state, session)
	if err != nil {
		return nil, err
	}
	if opened, err := chosen.Clone().DecryptTicket(sealed, state); opened != nil || err != nil {
		return nil, err
	}
	return session, nil
}

// masterSecretOf returns the secret in the encoding of a TLS 1.2 session, as
// tls.SessionState describes it, or nil. Should the encoding change, the secret
// is wrong and proves nothing.
func masterSecretOf(encoded []byte) []byte {
	const head = 2 + 1 + 2 + 8 // version, type, cipher suite, time
	if len(encoded) <= head+masterSecretLen ||
		binary.BigEndian.Uint16(encoded) != tls.VersionTLS12 ||
		encoded[head] != masterSecretLen {
		return nil
	}
	return encoded[head+1:][:masterSecretLen]
}
