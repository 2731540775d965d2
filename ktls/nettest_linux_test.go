package ktls

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// envNettest says that TestNettest is to run the cases themselves.
const envNettest = "KTLS_TEST_NETTEST"

// Three cases of nettest want that a connection can be written to after a write
// has timed out. crypto/tls doesn't allow that, since the peer may have got a part
// of a record (see (*tls.Conn).SetWriteDeadline), and so they fail with it, each
// after a minute; TestWriteAfterTimeout shows both. The only way to leave cases
// out is a flag, so the test starts itself with it. One of the three is about
// something else, and runs without deadlines for writes.
func TestNettest(t *testing.T) {
	if os.Getenv(envNettest) != "" {
		for _, tt := range nettestPipes {
			t.Run(tt.name, func(t *testing.T) {
				nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
					server, client, stop := offloadedPipe(t)
					c1, c2 = tt.ends(server, client)
					return c1, c2, stop, nil
				})
			})
		}
		return
	}
	testutil.RequireKernelTLS(t, Probe)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var skip []string
	cases := 0
	for _, tt := range nettestPipes {
		skip = append(skip, "^TestNettest$/^"+tt.name+"$/"+tt.skip)
		cases += tt.cases
	}
	before := txSockets(t)
	cmd := exec.Command(self, "-test.run", "^TestNettest$", "-test.skip", strings.Join(skip, "|"), "-test.v")
	cmd.Env = append(os.Environ(), envNettest+"=1")
	output, err := cmd.CombinedOutput()
	if passed := strings.Count(string(output), "        --- PASS: ") + strings.Count(string(output), "\n    --- PASS: ") - len(nettestPipes); err != nil || passed < cases {
		t.Errorf("%v, %d cases have passed, want %d\n%s", err, passed, cases, output)
	}
	if offloaded := txSockets(t) - before; offloaded < cases {
		t.Errorf("%d connections were offloaded", offloaded)
	}
	results.Fault(t, "Conformance", "The tests for connections (nettest) of golang.org/x/net", "one end moved, the other crypto/tls; either as the first end",
		"all cases pass that crypto/tls passes")
}

var nettestPipes = []struct {
	name  string
	skip  string // cases
	cases int    // that are left
	ends  func(server *Conn, client *tls.Conn) (c1, c2 net.Conn)
}{
	{"offloaded", afterTimeouts, 8, func(server *Conn, client *tls.Conn) (c1, c2 net.Conn) { return server, client }},
	{"client", afterTimeouts, 8, func(server *Conn, client *tls.Conn) (c1, c2 net.Conn) { return client, server }},
	{"reading", "^([^C]|Cl)", 1, func(server *Conn, client *tls.Conn) (c1, c2 net.Conn) {
		return untimedWrites{server}, untimedWrites{client}
	}},
}

const afterTimeouts = "^(PastTimeout|FutureTimeout|ConcurrentMethods)$"

// offloadedPipe returns an offloaded connection and its client.
func offloadedPipe(t *testing.T) (*Conn, *tls.Conn, func()) {
	s := realServer(t, offloadAll)
	near, far, err := loopback()
	if err != nil {
		t.Fatal(err)
	}
	conn, client := s.Conn(far), tls.Client(near, clientConfig())
	handshake(t, conn, client)
	s.writeFirst(t, conn, client)
	wantState(t, conn, Offloaded)
	return conn, client, func() {
		conn.Close()
		client.Close()
		waitFor(t, s.Server)
	}
}

// untimedWrites has no deadlines for writes.
type untimedWrites struct{ net.Conn }

func (c untimedWrites) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

func (untimedWrites) SetWriteDeadline(time.Time) error { return nil }

// A write that has timed out is the last one, as with crypto/tls.
func TestWriteAfterTimeout(t *testing.T) {
	testutil.RequireKernelTLS(t, Probe)
	offloaded, _, stop := offloadedPipe(t)
	defer stop()
	near, far := tcpPair(t)
	stock, client := tls.Server(far, serverConfig()), tls.Client(near, clientConfig())
	go func() { _ = client.Handshake() }()
	if err := stock.Handshake(); err != nil {
		t.Fatal(err)
	}
	for name, conn := range map[string]net.Conn{"offloaded": offloaded, "crypto/tls": stock} {
		t.Run(name, func(t *testing.T) {
			for _, deadline := range []time.Time{time.Unix(1, 0), {}} {
				if err := conn.SetWriteDeadline(deadline); err != nil {
					t.Fatal(err)
				}
				if n, err := conn.Write([]byte("x")); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("Write = %d, %v with the deadline %v", n, err, deadline)
				}
			}
		})
	}
}
