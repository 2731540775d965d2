package ktls

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// The functions of the Options may use the connection in whatever way they like.
func TestCallbacksUseConnection(t *testing.T) {
	for name, use := range map[string]func(*Conn){
		"Close":           func(c *Conn) { _ = c.Close() },
		"CloseWrite":      func(c *Conn) { _ = c.CloseWrite() },
		"ConnectionState": func(c *Conn) { _ = c.ConnectionState() },
		"Write":           func(c *Conn) { _, _ = c.Write([]byte("x")) },
		"Handshake":       func(c *Conn) { _ = c.Handshake() },
		"SetDeadline":     func(c *Conn) { _ = c.SetDeadline(time.Time{}) },
	} {
		for _, mode := range []mode{onDemand, offloadAll} {
			t.Run(name, func(t *testing.T) {
				calls := make(map[string]int)
				used := func(what string) func(*Conn) {
					return func(c *Conn) { calls[what]++; use(c) }
				}
				s := newFakeServer(t, serverConfig(), mode, nil)
				s.support.Rekey = false
				s.keyLimit = 5
				s.options.Decided = func(c *Conn, d Decision) { used("Decided")(c) }
				s.options.Retired, s.options.Closed = used("Retired"), used("Closed")
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					clientEnd, serverEnd := tcpPair(t)
					conn := s.Conn(serverEnd)
					client := tls.Client(clientEnd, clientConfig())
					go func() { _, _ = io.Copy(io.Discard, client) }()
					if mode == onDemand {
						conn.Offload()
					}
					for range 10 {
						_, _ = conn.Write(testutil.Body(1000))
					}
					_ = conn.Close()
				}()
				select {
				case <-ended:
				case <-time.After(soon):
					t.Fatal("somebody waits for somebody")
				}
				if calls["Decided"] != 1 || calls["Closed"] > 1 || calls["Retired"] > 1 {
					t.Errorf("calls %v", calls)
				}
			})
		}
	}
}

// What is called because of a KeyUpdate may read: crypto/tls's locks are free.
func TestReadInKeyUpdated(t *testing.T) {
	s := rekeyServer(t, true, nil)
	called := make(chan error, 1)
	s.options.KeyUpdated = func(c *Conn) {
		_, err := c.Read(make([]byte, 1))
		called <- err
	}
	conn, p, _ := s.connectPeer(t)
	go func() { _, _ = conn.Read(make([]byte, 1)) }()
	p.keyUpdate(true)
	p.write(recordApplicationData, []byte("data"))
	select {
	case err := <-called:
		if err != nil {
			t.Error("Read:", err)
		}
	case <-time.After(soon):
		t.Error("Read in KeyUpdated waits for ever")
	}
}

// An error that no call of the user's has returned is told by Lost.
func TestReaderErrorIsTold(t *testing.T) {
	broken := errors.New("broken")
	s := rekeyServer(t, true, nil)
	inner := s.newKernel
	s.newKernel = func(tcp *net.TCPConn) kernel { return &failingControl{inner(tcp), broken} }
	conn, p, _ := s.connectPeer(t)
	transfer(t, conn, p, testutil.Body(70_000))
	p.keyUpdate(true)
	readBack(t, conn, p)
	conn.Close()
	waitFor(t, s.Server)
	if len(s.lost) != 1 || !errors.Is(s.lost[0], broken) {
		t.Errorf("lost: %v, want %v", s.lost, broken)
	}
}

type failingControl struct {
	kernel
	err error
}

func (k *failingControl) sendControl(typ recordType, body []byte, wait bool) error {
	if typ == recordHandshake {
		return k.err
	}
	return k.kernel.sendControl(typ, body, wait)
}
