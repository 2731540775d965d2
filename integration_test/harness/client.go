package harness

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"testing"
)

// Client returns an HTTP client for all names that the site may have. Without a
// configuration it speaks HTTP/1.1. With one, NextProtos decides.
func (s Site) Client(t testing.TB, config *tls.Config) *http.Client {
	t.Helper()
	if config == nil {
		config = s.TLSConfig(t)
		config.ServerName = ""
	}
	config = config.Clone() // http.Transport changes it
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(len(config.NextProtos) > 0 && config.NextProtos[0] == HTTP2)
	transport := &http.Transport{
		TLSClientConfig:    config,
		Protocols:          protocols,
		DisableCompression: true,
		DialContext:        dialLocal(new(net.Dialer)),
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// dialLocal returns a function that dials 127.0.0.1, whatever host it is given.
func dialLocal(dialer *net.Dialer) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		return dialer.DialContext(ctx, network, net.JoinHostPort("127.0.0.1", port))
	}
}

// ProtocolClient is Client for a protocol.
func (s Site) ProtocolClient(t testing.TB, protocol string) *http.Client {
	t.Helper()
	return s.Client(t, s.TLSConfig(t, protocol))
}

// NarrowClient returns a client with a small window, so that the server can't finish a
// response that nobody reads.
func (s Site) NarrowClient(t testing.TB, config *tls.Config) *http.Client {
	t.Helper()
	client := s.Client(t, config)
	transport := client.Transport.(*http.Transport)
	transport.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10}
	transport.DialContext = dialLocal(dialer(ReceiveBuffer(64 << 10)))
	return client
}

// ClientOver returns an HTTP client for a protocol that connects by dial.
func (s Site) ClientOver(t testing.TB, protocol string, dial func() (net.Conn, error)) *http.Client {
	t.Helper()
	return Over(s.ProtocolClient(t, protocol), dial)
}

// Over makes a client connect by dial, and returns the client.
func Over(client *http.Client, dial func() (net.Conn, error)) *http.Client {
	client.Transport.(*http.Transport).DialContext = func(context.Context, string, string) (net.Conn, error) {
		return dial()
	}
	return client
}

// OverAddress is Over for another address of a network, for example one of "unix".
func OverAddress(client *http.Client, network, address string) *http.Client {
	return Over(client, func() (net.Conn, error) { return net.Dial(network, address) })
}

// ForEachProtocol runs a test with a client of either version of HTTP.
func (s Site) ForEachProtocol(t *testing.T, test func(t *testing.T, client *http.Client)) {
	t.Helper()
	for _, protocol := range Protocols {
		t.Run(protocol, func(t *testing.T) { test(t, s.ProtocolClient(t, protocol)) })
	}
}

// ProtocolOf returns the protocol that the requests of a client have.
func ProtocolOf(client *http.Client) string {
	if client.Transport.(*http.Transport).Protocols.HTTP2() {
		return "HTTP/2.0"
	}
	return "HTTP/1.1"
}
