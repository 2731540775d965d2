package harness

import (
	"context"
	"crypto/tls"
	"net"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// Dial opens a TLS connection to the site.
func (s Site) Dial(t testing.TB, config *tls.Config) *tls.Conn {
	t.Helper()
	conn, err := tls.Dial("tcp", s.Address(), config)
	testutil.Must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// DialTCP opens a TCP connection to the site, as [Site.TryTCP] does.
func (s Site) DialTCP(t testing.TB, options ...SocketOption) *net.TCPConn {
	t.Helper()
	conn, err := s.TryTCP(options...)
	testutil.Must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// TryTCP opens a TCP connection to the site. The options are set before it connects,
// so that they hold from the first packet on.
func (s Site) TryTCP(options ...SocketOption) (*net.TCPConn, error) {
	conn, err := dialer(options...).DialContext(context.Background(), "tcp", s.Address())
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}
