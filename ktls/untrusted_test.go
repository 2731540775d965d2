package ktls

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// offeringServer is a server whose kernels are tried by a prober of its own.
func offeringServer(t *testing.T, mode mode, setKeyErr error) (s *fakeServer, offered *int) {
	offered = new(int)
	s = newFakeServer(t, serverConfig(), mode, func(k *fakeKernel) { *offered++; k.setKeyErr = setKeyErr })
	p := &prober{run: func() (Support, error) { return s.support, nil }}
	_, _ = p.probe()
	s.supported, s.distrust = p.supported, p.distrust
	return s, offered
}

// A kernel that has done nothing when a connection was given to it gets no other, and
// the connection goes on in user space.
func TestKernelInert(t *testing.T) {
	for _, mode := range []mode{onDemand, offloadAll} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(fmt.Sprintf("%v/%s", mode, tls.VersionName(version)), func(t *testing.T) {
				lie := fmt.Errorf("%w (tested)", errInert)
				s, offered := offeringServer(t, mode, lie)
				config := clientConfig()
				config.MaxVersion = version
				for i := range 3 {
					conn, client, k := s.connect(t, config)
					body := testutil.Body(70_000)
					conn.Offload()
					transfer(t, conn, client, body)
					transferFrom(t, conn, client, testutil.OpenFile(t, body), body)
					wantState(t, conn, KernelUntrusted)
					if err := lie; i > 0 {
						s.wantDecided(t, conn, KernelUntrusted, nil)
					} else {
						s.wantDecided(t, conn, KernelUntrusted, err)
					}
					if *offered != 1 {
						t.Errorf("%d kernels were opened, want one", *offered)
					}
					k.wantSent(t, 0, 0)
					wire := client.NetConn().(*testutil.Recording).Got.Bytes()
					if bytes.Contains(wire, body[1000:1064]) {
						t.Error("a piece of the body is on the wire in clear")
					}
					s.end(t, conn, client)
				}
			})
		}
	}
}

// If a kernel may encrypt or may not, the connection ends.
func TestKernelDoubtful(t *testing.T) {
	s, _ := offeringServer(t, onDemand, errDoubtful)
	conn, client, _ := s.connect(t, clientConfig())
	conn.Offload()
	transfer(t, conn, client, testutil.Body(1000))
	wantState(t, conn, KernelUntrusted)
	s.wantDecided(t, conn, KernelUntrusted, errDoubtful)
	if n, err := conn.Write(testutil.Body(70_000)); err == nil {
		t.Errorf("Write = %d, and no error", n)
	}
	if n, err := conn.ReadFrom(testutil.OpenFile(t, testutil.Body(70_000))); err == nil {
		t.Errorf("ReadFrom = %d, and no error", n)
	}
	if n, err := client.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("the client reads %d bytes, %v", n, err)
	}
	if endsWithAlert(client) {
		t.Error("the end looks orderly")
	}
	conn.Close()
	wantZeroed(t, conn)
}

// From the doubt on crypto/tls writes nothing more, not even an alert that has waited
// for the end of the offload.
func TestKernelDoubtfulAlert(t *testing.T) {
	s, _ := offeringServer(t, onDemand, errDoubtful)
	conn, client, _ := s.connect(t, clientConfig())
	s.distrust = func(error) {
		if err := conn.tls.CloseWrite(); err == nil {
			t.Error("crypto/tls has written to a socket that may encrypt")
		}
	}
	conn.Offload()
	transfer(t, conn, client, []byte("proof"))
	wantState(t, conn, KernelUntrusted)
	if n, err := client.NetConn().Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("the client gets %d bytes, %v", n, err)
	}
}
