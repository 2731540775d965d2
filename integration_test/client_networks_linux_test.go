package integration_test

import (
	"net"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
)

// Whatever the buffers, windows and segments are, bodies arrive whole.
func TestNetworks(t *testing.T) {
	harness.OnKernel(t, "6.1")
	if !harness.InOwnNetwork(t) {
		return
	}
	c := harness.NewCaddy(t)
	// Go's listeners allow Multipath TCP. Linux 6.12 takes no notice of the sysctl
	// tcp_notsent_lowat for connections of such listeners.
	c.Env = append(c.Env, "GODEBUG=multipathtcp=0")
	f := c.Root.AddFile(t, "f", 2<<20)
	c.Start(t, harness.OffloadSite("all"))
	// The values that the kernel begins with.
	const wmem, lowat = "4096 16384 4194304", "4294967295"
	for _, network := range []struct {
		what, how   string
		wmem, lowat string
		options     []harness.SocketOption
	}{
		{"tiny receive window", "SO_RCVBUF of 4 KiB", wmem, lowat, []harness.SocketOption{harness.ReceiveBuffer(4 << 10), harness.MaxSegment(536)}},
		{"small receive window", "SO_RCVBUF of 32 KiB", wmem, lowat, []harness.SocketOption{harness.ReceiveBuffer(32 << 10)}},
		{"tiny send buffer", "tcp_wmem of 4 KiB", "4096 4096 4096", lowat, nil},
		{"tcp_notsent_lowat of 1 KiB", "sysctl, MSS of 65,483", wmem, "1024", nil},
		{"tcp_notsent_lowat of 16 KiB", "sysctl, MSS of 65,483", wmem, "16384", nil},
		{"tcp_notsent_lowat of 64 KiB", "sysctl, MSS of 65,483", wmem, "65536", nil},
		{"small segments", "TCP_MAXSEG of 536", wmem, lowat, []harness.SocketOption{harness.MaxSegment(536)}},
		{"large segments", "loopback, MSS of 65,483", wmem, lowat, nil},
		{"all of it tiny", "tcp_wmem and SO_RCVBUF of 4 KiB, tcp_notsent_lowat of 1 KiB, TCP_MAXSEG of 536",
			"4096 4096 4096", "1024", []harness.SocketOption{harness.ReceiveBuffer(4 << 10), harness.MaxSegment(536)}},
	} {
		t.Run(network.what+", "+network.how, func(t *testing.T) {
			harness.Sysctl(t, "ipv4/tcp_wmem", network.wmem)
			harness.Sysctl(t, "ipv4/tcp_notsent_lowat", network.lowat)
			for _, protocol := range harness.Protocols {
				before := c.Metrics(t)
				client := c.ClientOver(t, protocol, func() (net.Conn, error) { return c.TryTCP(network.options...) })
				if result := harness.ReadPartial(client, c.URL("/f")).Is(f); result != "whole" {
					t.Errorf("%s: %s", protocol, result)
				}
				client.CloseIdleConnections()
				c.Expect(t, before, harness.SentByKernel(f.Size))
			}
			results.Fault(t, "Clients", network.what, network.how, "whole")
		})
	}
}
