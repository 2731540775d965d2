package testutil

import (
	"bytes"
	"net"
	"testing"
)

// Listen returns a listener on 127.0.0.1 that is closed when the test ends.
func Listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	Must(t, err)
	t.Cleanup(func() { ln.Close() })
	return ln
}

// FreeAddress returns an address of 127.0.0.1 at which nobody listens.
func FreeAddress(t testing.TB) string {
	t.Helper()
	return net.JoinHostPort("127.0.0.1", FreePorts(t, 1)[0])
}

// FreePorts returns n different ports of 127.0.0.1 at which nobody listens.
func FreePorts(t testing.TB, n int) (ports []string) {
	t.Helper()
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		Must(t, err)
		defer ln.Close() // so that all of them differ
		_, port, err := net.SplitHostPort(ln.Addr().String())
		Must(t, err)
		ports = append(ports, port)
	}
	return ports
}

// A WrappingListener accepts what Wrap makes of each connection.
type WrappingListener struct {
	net.Listener
	Wrap func(net.Conn) net.Conn
}

// Accept returns the next connection, wrapped.
func (l WrappingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.Wrap(conn), nil
}

// A Recording is a connection that keeps what was read.
type Recording struct {
	net.Conn
	Got bytes.Buffer
}

func (r *Recording) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.Got.Write(p[:n])
	return n, err
}
