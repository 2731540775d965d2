package ktls

import (
	"crypto/tls"
	"slices"
)

// protocolHTTP2 is the name of HTTP/2 in ALPN (RFC 9113, section 3.2).
const protocolHTTP2 = "h2"

// configFor returns the configuration of one connection. Its key log leads to counter,
// unless counter is nil. HTTP/2 is not negotiated unless http2 is set.
func (s *Server) configFor(counter *recordCounter, http2 bool) *tls.Config {
	if counter == nil && http2 {
		return s.config
	}
	// The keys of session tickets are those of the given configuration: the keys that its
	// owner sets, at any time, or those that crypto/tls makes and replaces. crypto/tls
	// makes them when it is asked to open a ticket, so each clone then has the same keys.
	_, _ = s.config.DecryptTicket(nil, tls.ConnectionState{})
	config := s.clone(s.config, counter, http2)
	if choose := s.config.GetConfigForClient; choose != nil {
		config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			chosen, err := choose(hello)
			if chosen == nil || err != nil {
				return nil, err
			}
			return s.clone(chosen, counter, http2), nil
		}
	}
	return config
}

func (s *Server) clone(given *tls.Config, counter *recordCounter, http2 bool) *tls.Config {
	config := given.Clone()
	if !http2 {
		config.NextProtos = slices.DeleteFunc(slices.Clone(config.NextProtos), func(protocol string) bool {
			return protocol == protocolHTTP2
		})
	}
	if counter != nil {
		config.KeyLogWriter = &keyLog{counter: counter, next: given.KeyLogWriter}
		config.UnwrapSession = func(ticket []byte, state tls.ConnectionState) (*tls.SessionState, error) {
			return s.unwrapSession(counter, given, ticket, state)
		}
	}
	return config
}
