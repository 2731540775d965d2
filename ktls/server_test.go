package ktls

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// The keys of session tickets belong to the server, not to a connection.
func TestResumption(t *testing.T) {
	explicit := serverConfig()
	explicit.SetSessionTicketKeys([][32]byte{{1}})
	perClient := serverConfig()
	perClient.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return serverConfig(), nil }
	for _, tt := range []struct {
		name   string
		config *tls.Config
		client func(*tls.Config)
	}{
		{name: "automatic keys", config: serverConfig()},
		{name: "explicit keys", config: explicit},
		{name: "GetConfigForClient", config: perClient},
		{name: "TLS 1.2", config: serverConfig(), client: func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newFakeServer(t, tt.config, offloadAll, nil)
			config := clientConfig()
			config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
			if tt.client != nil {
				tt.client(config)
			}
			// Two listeners, as one for IPv4 and one for IPv6.
			for i := range 4 {
				conn, client := dialListener(t, s, config)
				if got := conn.ConnectionState().DidResume; got != (i > 0) {
					t.Errorf("connection %d: resumed: %v", i, got)
				}
				transfer(t, conn, client, testutil.Body(70_000))
				conn.Close()
			}
		})
	}
}

// dialListener connects over a listener of its own.
func dialListener(t testing.TB, s *fakeServer, config *tls.Config) (*Conn, *tls.Conn) {
	t.Helper()
	inner := testutil.Listen(t)
	ln := s.Listener(inner)
	defer ln.Close()
	raw, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn := accepted.(*Conn)
	t.Cleanup(func() { conn.Close(); raw.Close() })
	client := tls.Client(raw, config)
	handshake(t, conn, client)
	return conn, client
}

// The user's own key log gets what it would get without us.
func TestKeyLogWriter(t *testing.T) {
	var ours, theirs bytes.Buffer
	config := serverConfig()
	config.KeyLogWriter = &ours
	s := newFakeServer(t, config, offloadAll, nil)
	client := clientConfig()
	client.KeyLogWriter = &theirs
	conn, c, _ := s.connect(t, client)
	transfer(t, conn, c, testutil.Body(70_000))
	if config.KeyLogWriter != &ours {
		t.Error("the configuration was changed")
	}
	// Both sides log the same lines, though in an order of their own.
	lines := strings.Count(theirs.String(), "\n")
	if lines < 4 || strings.Count(ours.String(), "\n") != lines {
		t.Fatalf("%d lines, the client has %d", strings.Count(ours.String(), "\n"), lines)
	}
	for line := range strings.Lines(theirs.String()) {
		if !strings.Contains(ours.String(), line) {
			t.Errorf("the line %.40q... is missing", line)
		}
	}
}

func TestGetConfigForClient(t *testing.T) {
	refused := errors.New("refused")
	chosen := serverConfig()
	chosen.NextProtos = []string{"chosen"}
	for _, tt := range []struct {
		name     string
		config   *tls.Config
		err      error
		protocol string
	}{
		{"none", nil, nil, "outer"},
		{"another", chosen, nil, "chosen"},
		{"error", nil, refused, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			calls := 0
			config := serverConfig()
			config.NextProtos = []string{"outer"}
			config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
				calls++
				if hello.ServerName != testName || hello.Conn.RemoteAddr() == nil {
					t.Errorf("hello %+v", hello)
				}
				return tt.config, tt.err
			}
			s := newFakeServer(t, config, offloadAll, nil)
			clientEnd, serverEnd := tcpPair(t)
			conn := s.Conn(serverEnd)
			own := clientConfig()
			own.NextProtos = []string{"chosen", "outer"}
			client := tls.Client(clientEnd, own)
			done := make(chan error, 1)
			go func() { done <- client.Handshake() }()
			testutil.WantError(t, conn.Handshake(), tt.err)
			if err := <-done; (err != nil) != (tt.err != nil) {
				t.Error("client:", err)
			}
			if calls != 1 {
				t.Errorf("called %d times", calls)
			}
			if got := conn.ConnectionState().NegotiatedProtocol; got != tt.protocol {
				t.Errorf("protocol %q, want %q", got, tt.protocol)
			}
			if tt.err == nil {
				transfer(t, conn, client, testutil.Body(70_000))
				wantState(t, conn, Offloaded)
			}
			conn.Close()
			wantZeroed(t, conn)
		})
	}
}

// Plain HTTP on the TLS port is told as crypto/tls tells it.
func TestNoTLS(t *testing.T) {
	s := newFakeServer(t, serverConfig(), offloadAll, nil)
	clientEnd, serverEnd := tcpPair(t)
	conn := s.Conn(serverEnd)
	if _, err := clientEnd.Write([]byte("GET / HTTP/1.1\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	_, err := conn.Read(make([]byte, 1))
	var header tls.RecordHeaderError
	if !errors.As(err, &header) || string(header.RecordHeader[:]) != "GET /" || header.Conn == nil {
		t.Errorf("Read: %v", err)
	}
	conn.Close()
	s.wantDecided(t, conn, NotNeeded, nil)
}

// Everything at once, for the race detector: reads, writes, files, deadlines,
// an alert, Close.
func TestConcurrently(t *testing.T) {
	body := testutil.Body(100_000)
	for i := range 20 {
		s := newFakeServer(t, serverConfig(), mode(i%2 == 1), func(k *fakeKernel) { k.MaxFile = 10_000 })
		conn, p, _ := s.connectPeer(t)
		file := testutil.OpenFile(t, body)
		var group sync.WaitGroup
		group.Go(func() { // as much as arrives of it, it is authentic
			buf := make([]byte, 1<<20)
			for {
				if _, err := p.Read(buf); err != nil {
					if err == errBadRecordMAC {
						t.Error("the server's records are corrupt")
					}
					return
				}
			}
		})
		group.Go(func() {
			for range 5 {
				p.write(recordApplicationData, []byte("data"))
				p.keyUpdate(true)
			}
			p.garbage()
		})
		group.Go(func() {
			buf := make([]byte, 100)
			for {
				if _, err := conn.Read(buf); err != nil {
					break
				}
			}
			conn.Close()
		})
		group.Go(func() {
			for range 5 {
				_, _ = conn.Write(body)
			}
		})
		group.Go(func() {
			_, _ = conn.ReadFrom(file)
			conn.Offload()
			_ = conn.State().String()
			_ = conn.ConnectionState()
		})
		group.Wait()
		conn.Close()
		waitFor(t, s.Server)
		wantZeroed(t, conn)
	}
}

// Where FIPS 140 is enforced, the proof is forbidden: a state, and no panic.
func TestFIPS(t *testing.T) {
	if strings.Contains(os.Getenv("GODEBUG"), "fips140=only") {
		s := newFakeServer(t, serverConfig(), onDemand, nil)
		conn, client, _ := s.connect(t, clientConfig())
		transfer(t, conn, client, testutil.Body(2))
		conn.Offload()
		transfer(t, conn, client, testutil.Body(70_000))
		s.wantDecided(t, conn, FIPS, nil)
		transfer(t, conn, client, testutil.Body(70_001))
		return
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^TestFIPS$", "-test.v")
	cmd.Env = append(os.Environ(), "GODEBUG=fips140=only")
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestFIPS")) {
		t.Errorf("%v\n%s", err, out)
	}
}
