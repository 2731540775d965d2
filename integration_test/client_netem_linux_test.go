package integration_test

import (
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
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

// tcpCounter returns a counter of TCP, of those that `nstat -a` shows.
func tcpCounter(t testing.TB, name string) int64 {
	t.Helper()
	for _, file := range []string{"/proc/net/snmp", "/proc/net/netstat"} {
		text, err := os.ReadFile(file)
		testutil.Must(t, err)
		// Each line of names is followed by one of numbers.
		lines := strings.Split(string(text), "\n")
		for i := 0; i+1 < len(lines); i += 2 {
			if at := slices.Index(strings.Fields(lines[i]), name); at > 0 && strings.HasPrefix(lines[i], "Tcp") {
				n, err := strconv.ParseInt(strings.Fields(lines[i+1])[at], 10, 64)
				testutil.Must(t, err)
				return n
			}
		}
	}
	t.Fatalf("no counter %s", name)
	return 0
}

// Whatever a network does with packets, bodies arrive whole.
func TestNetem(t *testing.T) {
	harness.OnKernel(t, "6.12")
	harness.RequireRealKernel(t, "the machine's own kernel need not have these modules")
	harness.RequireProgram(t, "tc")
	for _, module := range []string{"sch_netem", "sch_tbf", "tcp_bbr"} {
		if _, err := os.Stat("/sys/module/" + module); err != nil {
			testutil.Missing(t, "needs the kernel's module "+module)
		}
	}
	if !harness.InOwnNetwork(t) {
		return
	}
	run(t, "ip link set lo mtu 1500")
	c, f := harness.StartWithFile(t, int64(harness.ShortOrLong(1<<20, 4<<20)), harness.OffloadSite("large"))
	const outOfOrder = "TCPOFOQueue"        // segments that came before others
	const roundTrip = 32 * time.Millisecond // at least, with 4 ms less each way
	const delay = "netem limit 10000 delay 20ms "
	for _, network := range []struct {
		what, how  string
		congestion []string
		queues     []string // from the outermost to the innermost
		shows      string   // a counter that has to rise
	}{
		{"delay", "40 ms of round trip, MTU 1500", []string{"cubic", "bbr"}, []string{singly, delay}, "InSegs"},
		{"loss", "1 % of packets, 40 ms of round trip", []string{"cubic", "bbr"}, []string{singly, delay + "loss 1%"}, outOfOrder},
		{"reordering", "packets up to 4 ms apart", []string{"cubic", "bbr"}, []string{singly, delay + "4ms"}, outOfOrder},
		{"damaged and doubled packets", "1 % each", []string{"cubic"}, []string{singly, delay + "corrupt 1% duplicate 1%"}, "InCsumErrors"},
		{"slow link with a short queue", "8 Mbit/s, 20 packets", []string{"cubic", "bbr"}, []string{"tbf rate 8mbit burst 3100 limit 30000"}, outOfOrder},
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
				before, shown, begin := c.Metrics(t), tcpCounter(t, network.shows), time.Now()
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
				if tcpCounter(t, network.shows) == shown {
					t.Errorf("%s: %s has not risen: the test shows nothing", congestion, network.shows)
				}
				// A connection, a handshake, and a request.
				if took := time.Since(begin); len(network.queues) > 1 && took < 3*roundTrip {
					t.Errorf("%s: it took %v: the test shows nothing", congestion, took)
				}
				c.Expect(t, before, harness.SentTimes(2, 2, 2*f.Size))
			}
			how := network.how + "; " + strings.Join(network.congestion, " and ") + "; HTTP/1.1 and HTTP/2"
			results.Fault(t, "Clients", network.what, how, "whole, by sendfile")
		})
	}
}
