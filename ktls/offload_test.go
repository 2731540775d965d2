package ktls

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// Handshakes that leave different numbers of records under the application
// secret, and what may be written before the offload.
func TestOffload(t *testing.T) {
	handshakes := []struct {
		name   string
		server func(*tls.Config)
		client func(*tls.Config)
		hello  func(testing.TB, tls.ConnectionState)
	}{
		{name: "plain"},
		{name: "without tickets", server: func(c *tls.Config) { c.SessionTicketsDisabled = true }},
		{name: "client certificate",
			server: func(c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert },
			client: func(c *tls.Config) { c.Certificates = []tls.Certificate{testCertificate()} }},
		{name: "resumed",
			client: func(c *tls.Config) { c.ClientSessionCache = tls.NewLRUClientSessionCache(1) },
			hello: func(t testing.TB, state tls.ConnectionState) {
				if !state.DidResume {
					t.Error("not resumed")
				}
			}},
		{name: "hello retry request",
			server: func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.CurveP384} },
			hello: func(t testing.TB, state tls.ConnectionState) {
				if !state.HelloRetryRequest {
					t.Error("no HelloRetryRequest")
				}
			}},
		{name: "protocol", // makes EncryptedExtensions longer
			server: func(c *tls.Config) { c.NextProtos = []string{"h2", "http/1.1"} },
			client: func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} }},
	}
	writes := []struct {
		name  string
		sizes []int
	}{
		{"none", nil},
		{"one record", []int{100}},
		{"many records", []int{1, 200_000, 3, 16384, 16385}},
		{"like an alert", []int{2}},
		{"like a KeyUpdate", []int{5, 2, 5}},
	}
	for _, h := range handshakes {
		for _, mode := range []mode{onDemand, offloadAll} {
			for _, w := range writes {
				t.Run(fmt.Sprintf("%s/%v/%s", h.name, mode, w.name), func(t *testing.T) {
					server, config := serverConfig(), clientConfig()
					if h.server != nil {
						h.server(server)
					}
					if h.client != nil {
						h.client(config)
					}
					s := newFakeServer(t, server, mode, nil)
					conn, client, k := s.connect(t, config)
					if config.ClientSessionCache != nil {
						// The ticket is read with the first data.
						transfer(t, conn, client, []byte("first"))
						conn.Close()
						conn, client, k = s.connect(t, config)
					}
					if h.hello != nil {
						h.hello(t, conn.ConnectionState())
					}
					byKernel := 0
					for _, n := range w.sizes {
						transfer(t, conn, client, testutil.Body(n))
						byKernel += n
					}
					if mode == onDemand {
						wantState(t, conn, NotNeeded)
						byKernel = 0
						conn.Offload()
						transfer(t, conn, client, testutil.Body(70_000))
					}
					wantState(t, conn, Offloaded)
					transfer(t, conn, client, testutil.Body(70_001))
					k.wantSent(t, byKernel+70_001, 0)
					s.wantDecided(t, conn, Offloaded, nil)
					if err := conn.Close(); err != nil {
						t.Error("Close:", err)
					}
					wantEnd(t, client)
					s.wantDecided(t, conn, Offloaded, nil)
				})
			}
		}
	}
}

// The last record before the offload may itself look like an alert or KeyUpdate.
func TestOffloadWithShortProof(t *testing.T) {
	for _, n := range []int{1, 2, 5} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			s := newFakeServer(t, serverConfig(), onDemand, nil)
			conn, client, k := s.connect(t, clientConfig())
			conn.Offload()
			transfer(t, conn, client, testutil.Body(n))
			wantState(t, conn, Offloaded)
			transfer(t, conn, client, testutil.Body(70_000))
			k.wantSent(t, 70_000, 0)
		})
	}
}

// Connections that are not offloaded go on as without this package.
func TestNotOffloaded(t *testing.T) {
	refused := errors.New("refused")
	offloadNow := func(t *testing.T, conn *Conn, client io.Reader) {
		conn.Offload()
		transfer(t, conn, client, testutil.Body(70_000))
	}
	for _, tt := range []struct {
		name   string
		server func(*fakeServer)
		kernel func(*fakeKernel)
		client func(*tls.Config)
		try    func(*testing.T, *Conn, io.Reader)
		state  State
		err    error
	}{
		{name: "not asked", try: func(t *testing.T, conn *Conn, client io.Reader) {
			transfer(t, conn, client, testutil.Body(70_000))
		}, state: NotNeeded},
		{name: "asked, but not written", try: func(_ *testing.T, conn *Conn, _ io.Reader) {
			conn.Offload()
		}, state: NotNeeded},
		{name: "no kernel", server: func(s *fakeServer) { s.support = Support{Rekey: true} }, state: KernelUnsupported},
		{name: "version", client: func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, state: TLSVersion},
		{name: "no AEAD", client: func(c *tls.Config) {
			c.MaxVersion = tls.VersionTLS12
			c.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
		}, state: Cipher},
		{name: "cipher", server: func(s *fakeServer) { s.support = withoutDefault(t) }, state: Cipher},
		{name: "refused", kernel: func(k *fakeKernel) { k.setKeyErr = refused }, state: KernelRefused, err: refused},
		{name: "multipath", kernel: func(k *fakeKernel) { k.setKeyErr = errors.Join(errMultipath, nil) }, state: NotTCP},
		{name: "no secret", try: func(t *testing.T, conn *Conn, client io.Reader) {
			conn.tap.counter.key.secret = nil
			transfer(t, conn, client, testutil.Body(2)) // looks like an alert
			offloadNow(t, conn, client)
		}, state: NoSecret},
		{name: "miscounted", try: func(t *testing.T, conn *Conn, client io.Reader) {
			conn.tap.counter.since += 7
			offloadNow(t, conn, client)
		}, state: SequenceUnproven},
		{name: "tampered", try: func(t *testing.T, conn *Conn, client io.Reader) {
			conn.Offload()
			conn.tap.counter.setCapture(true)
			wait := receiving(t, client, []byte("proof"))
			if _, err := conn.tls.Write([]byte("proof")); err != nil {
				t.Error(err)
			}
			wait()
			conn.tap.counter.last[recordHeaderLen+1] ^= 1
			conn.lock()
			conn.offload()
			conn.unlock()
		}, state: SequenceUnproven},
	} {
		t.Run(tt.name, func(t *testing.T) {
			config := serverConfig()
			config.MinVersion = tls.VersionTLS10
			s := newFakeServer(t, config, onDemand, tt.kernel)
			if tt.server != nil {
				tt.server(s)
			}
			config = clientConfig()
			if tt.client != nil {
				tt.client(config)
			}
			conn, client, k := s.connect(t, config)
			if tt.try == nil {
				tt.try = offloadNow
			}
			tt.try(t, conn, client)
			if tt.state != NotNeeded {
				wantState(t, conn, tt.state)
				s.wantDecided(t, conn, tt.state, tt.err)
				for _, n := range []int{70_000, 2, 5, 70_001} {
					transfer(t, conn, client, testutil.Body(n))
				}
				wait := receiving(t, client, testutil.Body(70_002))
				if n, err := conn.ReadFrom(testutil.OpenFile(t, testutil.Body(70_002))); n != 70_002 || err != nil {
					t.Errorf("ReadFrom = %d, %v", n, err)
				}
				wait()
				wantZeroed(t, conn)
			}
			if err := conn.Close(); err != nil {
				t.Error("Close:", err)
			}
			wantEnd(t, client)
			if k != nil {
				k.wantSent(t, 0, 0)
			}
			s.wantDecided(t, conn, tt.state, tt.err)
			testutil.WantError(t, conn.Close(), net.ErrClosed)
			s.wantDecided(t, conn, tt.state, tt.err)
			wantZeroed(t, conn)
		})
	}
}

// withoutDefault is everything but the suite that two Go sides choose here,
// which depends on the CPU.
func withoutDefault(t testing.TB) Support {
	s := newFakeServer(t, serverConfig(), onDemand, nil)
	conn, _, _ := s.connect(t, clientConfig())
	used := conn.ConnectionState().CipherSuite
	support := s.support
	for i := range suites {
		if suites[i].id == used {
			support.known &^= 1 << i
		}
	}
	return support
}

func wantZeroed(t testing.TB, conn *Conn) {
	t.Helper()
	if kept := secretsOf(conn); len(kept) > 0 {
		t.Errorf("the connection keeps %q", slices.Sorted(maps.Keys(kept)))
	}
}

// A connection that is not TCP can't be offloaded, but works.
func TestNotTCP(t *testing.T) {
	s := newFakeServer(t, serverConfig(), offloadAll, nil)
	clientEnd, serverEnd := net.Pipe()
	conn := s.Conn(serverEnd)
	client := tls.Client(&testutil.Recording{Conn: clientEnd}, clientConfig())
	handshake(t, conn, client)
	conn.Offload()
	transfer(t, conn, client, testutil.Body(70_000))
	s.wantDecided(t, conn, NotTCP, nil)
	go conn.Close()
	wantEnd(t, client)
}

// A connection that never shakes hands is decided, too.
func TestCloseBeforeHandshake(t *testing.T) {
	s := newFakeServer(t, serverConfig(), offloadAll, nil)
	_, serverEnd := tcpPair(t)
	conn := s.Conn(serverEnd)
	if err := conn.CloseWrite(); err == nil {
		t.Error("CloseWrite before the handshake succeeded")
	}
	if err := conn.Close(); err != nil {
		t.Error("Close:", err)
	}
	s.wantDecided(t, conn, NotNeeded, nil)
}
