package integration_test

import (
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// Without keep-alive, nothing that comes from the client wakes a download that waits.
const withoutKeepAlive = `{
	servers {
		listener_wrappers {
			ktls {
				offload all
			}
		}
		keepalive_idle 1h
		keepalive_interval 1h
	}
}
`

// More downloads than TCP has memory for go on. The TLS layer gets none for a record then,
// even on a connection that has nothing under way.
func TestTCPMemory(t *testing.T) {
	harness.OnKernel(t, "6.12")
	harness.RequireKernelTLS(t)
	ownModule(t, "tls")
	const clients, size = 16, 2 << 20
	c, f := harness.StartWithFile(t, size, withoutKeepAlive+harness.FileSite)
	setForAll(t, "/proc/sys/net/ipv4/tcp_mem", "256 384 512") // pages
	before, pressures := c.Metrics(t), netstat(t, "TCPMemoryPressures")
	var all sync.WaitGroup
	for i := range clients {
		protocol := harness.Protocols[0]
		if i%4 == 0 {
			protocol = harness.HTTP2
		}
		client := c.ClientOver(t, protocol, func() (net.Conn, error) {
			conn, err := (&net.Dialer{KeepAlive: -1}).Dial("tcp", c.Address())
			return &pacedConn{Conn: conn, most: 20_000, pause: 10 * time.Millisecond}, err
		})
		client.Timeout = 2 * time.Minute // no download needs it, but without memory they would wait for ever
		all.Go(func() {
			if result := harness.ReadPartial(client, c.URL("/f")).Is(f); result != "whole" {
				t.Errorf("%s: %s", protocol, result)
			}
		})
	}
	all.Wait()
	if netstat(t, "TCPMemoryPressures") == pressures {
		t.Error("there was enough memory: the test shows nothing")
	}
	c.Expect(t, before, harness.SentTimes(clients, clients, clients*size))
	results.Fault(t, kernelFailures, "no memory for TCP", "tcp_mem of 2 MiB for 16 downloads that are read slowly, without keep-alive; HTTP/1.1 and HTTP/2", "whole")
}

// setForAll sets a parameter of the kernel that is not of a network namespace, until the
// end of the test.
func setForAll(t *testing.T, file, value string) {
	t.Helper()
	before, err := os.ReadFile(file)
	testutil.Must(t, err)
	testutil.Must(t, os.WriteFile(file, []byte(value), 0))
	t.Cleanup(func() { testutil.Must(t, os.WriteFile(file, before, 0)) })
}

// netstat returns a counter of /proc/net/netstat.
func netstat(t testing.TB, name string) string {
	t.Helper()
	data, err := os.ReadFile("/proc/net/netstat")
	testutil.Must(t, err)
	// A line with the names of some counters, then one with their values.
	lines := strings.Split(string(data), "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		values := strings.Fields(lines[i+1])
		for j, counter := range strings.Fields(lines[i]) {
			if counter == name {
				return values[j]
			}
		}
	}
	t.Fatalf("the kernel has no counter %s", name)
	return ""
}
