package integration_test

import (
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
)

// singly passes packets one by one to the queue behind it. TCP gives loopback segments of
// up to 64 KiB, of which netem would lose or delay all at once. tbf cuts what is larger
// than its burst into packets of the MTU.
const singly = "tbf rate 1gbit burst 3100 limit 10000000"

// run runs a program, which must succeed.
func run(t testing.TB, line string) {
	t.Helper()
	words := strings.Fields(line)
	if output, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", line, err, output)
	}
}

// Whatever a network does with packets, bodies arrive whole.
func TestNetem(t *testing.T) {
	harness.OnKernel(t, "6.12")
	harness.RequireProgram(t, "tc")
	if !harness.InOwnNetwork(t) {
		return
	}
	run(t, "ip link set lo mtu 1500")
	c, f := harness.StartWithFile(t, int64(harness.ShortOrLong(1<<20, 4<<20)), harness.OffloadSite("large"))
	const delay = "netem limit 10000 delay 20ms "
	for _, network := range []struct {
		what, how  string
		congestion []string
		queues     []string // from the outermost to the innermost
	}{
		{"delay", "40 ms of round trip, MTU 1500", []string{"cubic", "bbr"}, []string{singly, delay}},
		{"loss", "1 % of packets, 40 ms of round trip", []string{"cubic", "bbr"}, []string{singly, delay + "loss 1%"}},
		{"reordering", "packets up to 4 ms apart", []string{"cubic", "bbr"}, []string{singly, delay + "4ms"}},
		{"damaged and doubled packets", "1 % each", []string{"cubic"}, []string{singly, delay + "corrupt 1% duplicate 1%"}},
		{"slow link with a short queue", "8 Mbit/s, 20 packets", []string{"cubic", "bbr"}, []string{"tbf rate 8mbit burst 3100 limit 30000"}},
	} {
		t.Run(network.what, func(t *testing.T) {
			for i, queue := range network.queues {
				at := "root handle 1:"
				if i > 0 {
					at = "parent 1: handle 2:"
				}
				run(t, "tc qdisc add dev lo "+at+" "+queue)
			}
			defer run(t, "tc qdisc del dev lo root")
			for _, congestion := range network.congestion {
				harness.Sysctl(t, "ipv4/tcp_congestion_control", congestion)
				before := c.Metrics(t)
				var both sync.WaitGroup
				for _, protocol := range harness.Protocols {
					client := c.ProtocolClient(t, protocol)
					both.Go(func() {
						if result := harness.ReadPartial(client, c.URL("/f")).Is(f); result != "whole" {
							t.Errorf("%s, %s: %s", congestion, protocol, result)
						}
						client.CloseIdleConnections()
					})
				}
				both.Wait()
				c.Expect(t, before, harness.SentTimes(2, 2, 2*f.Size))
			}
			how := network.how + "; " + strings.Join(network.congestion, " and ") + "; HTTP/1.1 and HTTP/2"
			results.Fault(t, "Clients", network.what, how, "whole, by sendfile")
		})
	}
}
