package ktls

import (
	"crypto/tls"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A blockedCall is a call on a connection that waits, and may wait for ever.
type blockedCall struct {
	name string
	// begin returns a connection and a call on it that will block. When it does
	// blocked is closed, or the call may be taken for blocked after a while.
	begin func(t *testing.T) (conn net.Conn, call func() error, blocked <-chan struct{})

	// What the call doesn't obey, because the system call that it is in can't be
	// interrupted, or because crypto/tls waits for a callback.
	ignoresClose, ignoresDeadline bool
}

// soon tells "at once" from "for ever", on a busy machine too.
const soon = 15 * time.Second

// fill sends until the connection takes no more.
func fill(write func([]byte) (int, error)) error {
	body := testutil.Body(1 << 20)
	for {
		if _, err := write(body); err != nil {
			return err
		}
	}
}

func settled() <-chan struct{} {
	blocked := make(chan struct{})
	time.AfterFunc(300*time.Millisecond, func() { close(blocked) })
	return blocked
}

// hangingCertificate returns a configuration whose handshake hangs, when it does,
// and what ends that.
func hangingCertificate() (config *tls.Config, hangs <-chan struct{}, release func()) {
	config = serverConfig()
	certificate := config.Certificates[0]
	config.Certificates = nil
	begun, goOn := make(chan struct{}), make(chan struct{})
	config.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		close(begun)
		<-goOn
		return &certificate, nil
	}
	return config, begun, func() { close(goOn) }
}

var portableCalls = []blockedCall{
	{name: "handshake in GetCertificate", ignoresClose: true, ignoresDeadline: true,
		begin: func(t *testing.T) (net.Conn, func() error, <-chan struct{}) {
			config, hangs, release := hangingCertificate()
			t.Cleanup(release)
			s := newFakeServer(t, config, onDemand, nil)
			s.options.Decided = func(c *Conn, d Decision) { _ = c.LocalAddr() }
			clientEnd, serverEnd := tcpPair(t)
			conn := s.Conn(serverEnd)
			go func() { _ = tls.Client(clientEnd, clientConfig()).Handshake() }()
			return conn, conn.Handshake, hangs
		}},
	{name: "handshake with a silent client",
		begin: func(t *testing.T) (net.Conn, func() error, <-chan struct{}) {
			s := newFakeServer(t, serverConfig(), onDemand, nil)
			_, serverEnd := tcpPair(t)
			conn := s.Conn(serverEnd)
			return conn, conn.Handshake, settled()
		}},
	{name: "Read",
		begin: func(t *testing.T) (net.Conn, func() error, <-chan struct{}) {
			conn, _, _ := newFakeServer(t, serverConfig(), onDemand, nil).connect(t, clientConfig())
			return conn, func() error { _, err := conn.Read(make([]byte, 1)); return err }, settled()
		}},
	{name: "Read after the offload",
		begin: func(t *testing.T) (net.Conn, func() error, <-chan struct{}) {
			conn, _, _ := offloaded(t, nil)
			return conn, func() error { _, err := conn.Read(make([]byte, 1)); return err }, settled()
		}},
	{name: "Write before the offload",
		begin: func(t *testing.T) (net.Conn, func() error, <-chan struct{}) {
			conn, _, _ := newFakeServer(t, serverConfig(), onDemand, nil).connect(t, clientConfig())
			return conn, func() error { return fill(conn.Write) }, settled()
		}},
	{name: "Write that offloads",
		begin: func(t *testing.T) (net.Conn, func() error, <-chan struct{}) {
			conn, _, _ := newFakeServer(t, serverConfig(), onDemand, nil).connect(t, clientConfig())
			conn.Offload()
			body := make([]byte, 64<<20) // which is made sooner than one of random bytes
			return conn, func() error { _, err := conn.Write(body); return err }, settled()
		}},
	{name: "Write after the offload",
		begin: func(t *testing.T) (net.Conn, func() error, <-chan struct{}) {
			conn, _, _ := offloaded(t, nil)
			return conn, func() error { return fill(conn.Write) }, settled()
		}},
	{name: "ReadFrom of what is no file",
		begin: func(t *testing.T) (net.Conn, func() error, <-chan struct{}) {
			conn, _, _ := offloaded(t, nil)
			return conn, func() error {
				_, err := conn.ReadFrom(io.MultiReader(neverEnding{}))
				return err
			}, settled()
		}},
}

type neverEnding struct{}

func (neverEnding) Read(p []byte) (int, error) { return len(p), nil }

// Whatever a connection waits for, Close returns at once and ends it; and so does a
// deadline, but for what nothing can interrupt.
func TestInterrupt(t *testing.T) { testInterrupt(t, portableCalls) }

func testInterrupt(t *testing.T, calls []blockedCall) {
	for _, call := range calls {
		t.Run(call.name+"/Close", func(t *testing.T) {
			t.Parallel()
			conn, f, blocked := call.begin(t)
			ended := make(chan error, 1)
			go func() { ended <- f() }()
			<-blocked
			closed := make(chan struct{})
			go func() { defer close(closed); _ = conn.Close() }()
			select {
			case <-closed:
			case <-time.After(soon):
				t.Error("Close waits")
			}
			if call.ignoresClose {
				return
			}
			select {
			case err := <-ended:
				if err == nil {
					t.Error("the call succeeded")
				}
			case <-time.After(soon):
				t.Error("the call goes on after Close")
			}
		})
		if call.ignoresDeadline {
			continue
		}
		t.Run(call.name+"/SetDeadline", func(t *testing.T) {
			t.Parallel()
			conn, f, blocked := call.begin(t)
			ended := make(chan error, 1)
			go func() { ended <- f() }()
			<-blocked
			if err := conn.SetDeadline(time.Unix(1, 0)); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-ended:
				testutil.WantError(t, err, os.ErrDeadlineExceeded)
			case <-time.After(soon):
				t.Error("the call goes on after its deadline")
			}
			conn.Close()
		})
	}
}
