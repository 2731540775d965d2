package ktls

import (
	"bytes"
	"crypto/tls"
	"errors"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// resume makes two connections and returns the second one's state.
func (s *fakeServer) resume(t testing.TB, config *tls.Config) tls.ConnectionState {
	t.Helper()
	for i := 0; ; i++ {
		conn, client, _ := s.connect(t, config)
		transfer(t, conn, client, testutil.Body(70_000)) // a ticket comes before it
		offload(t, conn, client)
		transfer(t, conn, client, testutil.Body(70_001))
		state := conn.ConnectionState()
		conn.Close()
		if i == 1 {
			return state
		}
	}
}

var ticketVersions = []uint16{tls.VersionTLS12, tls.VersionTLS13}

// Which tickets are accepted is what crypto/tls decides without us.
func TestTicketKeys(t *testing.T) {
	withKeys := func(keys ...byte) *tls.Config {
		config := serverConfig()
		var all [][32]byte
		for _, k := range keys {
			all = append(all, [32]byte{k})
		}
		if len(all) > 0 {
			config.SetSessionTicketKeys(all)
		}
		return config
	}
	// As quic-go leaves a configuration that HTTP/3 shares.
	used := withKeys()
	_, _ = used.DecryptTicket(nil, tls.ConnectionState{})
	disabled := serverConfig()
	disabled.SessionTicketsDisabled = true
	for _, tt := range []struct {
		name          string
		outer         *tls.Config
		first, second *tls.Config // for the two connections, nil: the outer one
		want          bool
	}{
		{"automatic", withKeys(), nil, nil, true},
		{"automatic, chosen", withKeys(), withKeys(), withKeys(), true},
		{"automatic, chosen has made keys", withKeys(), used, used, true},
		{"ticket of one that has keys for one that has made some", withKeys(), withKeys(1), used, false},
		{"set", withKeys(1), nil, nil, true},
		{"set, chosen without any", withKeys(1), withKeys(), withKeys(), true},
		{"set in those chosen", withKeys(), withKeys(1), withKeys(1), true},
		{"rotated", withKeys(), withKeys(1), withKeys(2, 1), true},
		{"rotated out", withKeys(), withKeys(1), withKeys(3, 2), false},
		{"outer's ticket for one that has keys", withKeys(), withKeys(), withKeys(1), false},
		{"outer's set ticket for one that has keys", withKeys(7), withKeys(), withKeys(1), false},
		{"ticket of one that has keys", withKeys(), withKeys(1), withKeys(), false},
		{"disabled at last", withKeys(), withKeys(), disabled, false},
		{"disabled at first", withKeys(), disabled, withKeys(), false},
	} {
		for _, version := range ticketVersions {
			t.Run(tt.name+"/"+tls.VersionName(version), func(t *testing.T) {
				results := map[string]bool{}
				for _, name := range []string{"stock", "ours"} {
					outer := tt.outer.Clone()
					n := 0
					if tt.first != nil {
						outer.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
							n++
							return map[bool]*tls.Config{true: tt.first, false: tt.second}[n == 1], nil
						}
					}
					client := clientConfig()
					cached(client)
					client.MaxVersion = version
					s := newFakeServer(t, outer, onDemand, nil)
					if name == "stock" {
						results[name] = stockResumes(t, outer, client)
						continue
					}
					results[name] = s.resume(t, client).DidResume
				}
				if results["stock"] != tt.want || results["ours"] != tt.want {
					t.Errorf("resumed: %v, want %v", results, tt.want)
				}
			})
		}
	}
}

// stockResumes reports whether crypto/tls by itself resumes a session.
func stockResumes(t testing.TB, server, client *tls.Config) (resumed bool) {
	t.Helper()
	for range 2 {
		clientEnd, serverEnd := tcpPair(t)
		s, c := tls.Server(serverEnd, server), tls.Client(clientEnd, client)
		go func() { _, _ = s.Write([]byte("x")) }()
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		resumed = c.ConnectionState().DidResume
		c.Close()
		s.Close()
	}
	return resumed
}

// A configuration's own UnwrapSession decides as without us.
func TestUnwrapSession(t *testing.T) {
	refused := errors.New("refused")
	for _, tt := range []struct {
		name    string
		unwrap  func(c *tls.Config, ticket []byte, state tls.ConnectionState) (*tls.SessionState, error)
		resumed bool
		err     error
	}{
		{"opens", (*tls.Config).DecryptTicket, true, nil},
		{"does not", func(*tls.Config, []byte, tls.ConnectionState) (*tls.SessionState, error) { return nil, nil }, false, nil},
		{"fails", func(*tls.Config, []byte, tls.ConnectionState) (*tls.SessionState, error) { return nil, refused }, false, refused},
	} {
		for _, version := range ticketVersions {
			t.Run(tt.name+"/"+tls.VersionName(version), func(t *testing.T) {
				server := serverConfig()
				keys := serverConfig()
				calls := 0
				server.WrapSession = keys.EncryptTicket
				server.UnwrapSession = func(ticket []byte, state tls.ConnectionState) (*tls.SessionState, error) {
					if len(ticket) == 0 {
						return nil, nil // TLS 1.2 without a ticket
					}
					calls++
					return tt.unwrap(keys, ticket, state)
				}
				client := clientConfig()
				cached(client)
				client.MaxVersion = version
				s := newFakeServer(t, server, onDemand, nil)
				if tt.err == nil {
					if got := s.resume(t, client).DidResume; got != tt.resumed {
						t.Errorf("resumed: %v, want %v", got, tt.resumed)
					}
				} else {
					conn, c, _ := s.connect(t, client)
					transfer(t, conn, c, []byte("x"))
					clientEnd, serverEnd := tcpPair(t)
					go func() { _ = tls.Client(clientEnd, client).Handshake() }()
					testutil.WantError(t, s.Conn(serverEnd).Handshake(), tt.err)
				}
				if calls != 1 {
					t.Errorf("called %d times", calls)
				}
			})
		}
	}
}

// If crypto/tls encodes sessions in another way one day, resumed connections
// are not offloaded; they work.
func TestUnknownSessionEncoding(t *testing.T) {
	s := newFakeServer(t, serverConfig(), onDemand, nil)
	client := clientConfig()
	cached(client)
	client.MaxVersion = tls.VersionTLS12
	s.resume(t, client)
	for _, tt := range []struct {
		name   string
		change func(*writeKey)
		want   State
	}{
		{"secret not found", func(k *writeKey) { k.secret = nil }, NoSecret},
		{"another secret found", func(k *writeKey) { k.secret[0] ^= 1 }, SequenceUnproven},
	} {
		conn, c, _ := s.connect(t, client)
		tt.change(&conn.tap.counter.key)
		if !conn.ConnectionState().DidResume {
			t.Error("not resumed")
		}
		conn.Offload()
		transfer(t, conn, c, testutil.Body(70_000))
		wantState(t, conn, tt.want)
		transfer(t, conn, c, testutil.Body(70_001))
		conn.Close()
	}
}

func FuzzMasterSecretOf(f *testing.F) {
	session := append([]byte{3, 3, 1, 0xc0, 0x2f, 0, 0, 0, 0, 0, 0, 0, 0, masterSecretLen}, testutil.Body(masterSecretLen)...)
	f.Add(append(session, 0, 0, 0, 1))
	f.Add(session)
	f.Add(session[:20])
	f.Fuzz(func(t *testing.T, encoded []byte) {
		secret := masterSecretOf(encoded)
		if secret == nil {
			return
		}
		if len(secret) != masterSecretLen || !bytes.Contains(encoded, secret) || !bytes.HasPrefix(encoded, []byte{3, 3}) {
			t.Errorf("%x from %x", secret, encoded)
		}
	})
}
