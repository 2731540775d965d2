package harness

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// Protocols are the versions of HTTP that clients speak, under their names in ALPN.
var Protocols = []string{HTTP1, HTTP2}

// The names of protocols in ALPN.
const (
	HTTP1 = "http/1.1"
	HTTP2 = http2.NextProtoTLS
)

// TLSVersions are the versions of TLS that Caddy speaks.
var TLSVersions = []uint16{tls.VersionTLS12, tls.VersionTLS13}

// A Site is one of a Caddy's sites, as clients see it: at a port of 127.0.0.1, with a
// certificate of Caddy's own authority.
type Site struct {
	Port string

	dir string // Caddy's
}

// URL returns the address of a path on the site.
func (s Site) URL(path string) string { return "https://localhost:" + s.Port + path }

// Address returns the address at which the site listens.
func (s Site) Address() string { return net.JoinHostPort("127.0.0.1", s.Port) }

// RootFile returns the name of the file with the root certificate of Caddy's authority.
func (s Site) RootFile() string {
	return filepath.Join(s.dir, "caddy/pki/authorities/local/root.crt")
}

// Roots returns the root certificate of Caddy's authority.
func (s Site) Roots(t testing.TB) *x509.CertPool {
	t.Helper()
	pem, err := os.ReadFile(s.RootFile())
	testutil.Must(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return pool
}

// TLSConfig returns a client's configuration for some protocols. None means HTTP/1.1.
func (s Site) TLSConfig(t testing.TB, protocols ...string) *tls.Config {
	t.Helper()
	if len(protocols) == 0 {
		protocols = []string{HTTP1}
	}
	return &tls.Config{RootCAs: s.Roots(t), ServerName: "localhost", NextProtos: protocols}
}

// Quick returns a client's configuration for short handshakes: with one curve, and
// sessions that are resumed.
func (s Site) Quick(t testing.TB, protocol string) *tls.Config {
	t.Helper()
	config := s.TLSConfig(t, protocol)
	config.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	config.CurvePreferences = []tls.CurveID{tls.X25519}
	return config
}

// Resuming returns a client's configuration for one version of TLS.
func (s Site) Resuming(t testing.TB, version uint16, cache tls.ClientSessionCache) *tls.Config {
	t.Helper()
	config := s.TLSConfig(t)
	config.MinVersion, config.MaxVersion = version, version
	config.ClientSessionCache = cache
	return config
}

// A Session is the cache of a client that knows only one session, and presents it to
// every server.
type Session struct {
	State *tls.ClientSessionState
	Held  bool // keeps the first session
}

// Get implements tls.ClientSessionCache.
func (s *Session) Get(string) (*tls.ClientSessionState, bool) { return s.State, s.State != nil }

// Put implements tls.ClientSessionCache.
func (s *Session) Put(_ string, state *tls.ClientSessionState) {
	if !s.Held || s.State == nil {
		s.State = state
	}
}
