package ktls

import (
	"crypto/tls"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// resumes makes a connection and reports whether it resumes a session.
func resumes(t testing.TB, server func(net.Conn) net.Conn, client *tls.Config) bool {
	t.Helper()
	clientEnd, serverEnd := tcpPair(t)
	s, c := server(serverEnd), tls.Client(clientEnd, client)
	body := testutil.Body(70_000)
	wait := receiving(t, c, body) // a ticket comes before it
	if _, err := s.Write(body); err != nil {
		t.Error("Write:", err)
	}
	wait()
	if conn, ok := s.(*Conn); ok && conn.State() == NotNeeded {
		offload(t, conn, c) // the keys of a resumed session are right
		transfer(t, conn, c, body)
	}
	s.Close()
	c.Close()
	return c.ConnectionState().DidResume
}

// ticketServers make connections of a configuration.
var ticketServers = []struct {
	name string
	make func(t testing.TB, config *tls.Config) func(raw net.Conn) net.Conn
}{
	{"crypto/tls", func(_ testing.TB, config *tls.Config) func(net.Conn) net.Conn {
		return func(raw net.Conn) net.Conn { return tls.Server(raw, config) }
	}},
	{"kernel TLS", func(t testing.TB, config *tls.Config) func(net.Conn) net.Conn {
		s := newFakeServer(t, config, onDemand, nil)
		return func(raw net.Conn) net.Conn { return s.Conn(raw) }
	}},
	{"listener with kernel TLS", func(t testing.TB, config *tls.Config) func(net.Conn) net.Conn {
		s := newFakeServer(t, config, onDemand, nil)
		return func(raw net.Conn) net.Conn { return s.conn(raw, false) }
	}},
	{"listener without kernel TLS", func(t testing.TB, config *tls.Config) func(net.Conn) net.Conn {
		s := newFakeServer(t, config, onDemand, nil)
		s.support = Support{}
		return func(raw net.Conn) net.Conn { return s.conn(raw, false) }
	}},
}

// Whoever has the same configuration has the same ticket keys, as in crypto/tls, at
// the same time and one after the other.
func TestTicketsShared(t *testing.T) {
	chosen := func() *tls.Config {
		config := serverConfig()
		config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return serverConfig(), nil }
		return config
	}
	for name, config := range map[string]func() *tls.Config{"plain": serverConfig, "GetConfigForClient": chosen} {
		for _, version := range ticketVersions {
			for first := range ticketServers {
				t.Run(name+"/"+tls.VersionName(version)+"/"+ticketServers[first].name, func(t *testing.T) {
					client, server := clientConfig(), config()
					cached(client)
					client.MaxVersion = version
					var servers []func(net.Conn) net.Conn
					for i := range ticketServers {
						servers = append(servers, ticketServers[(first+i)%len(ticketServers)].make(t, server))
					}
					var got []bool
					for _, s := range servers {
						got = append(got, resumes(t, s, client))
					}
					// Another one, of the same kind as the first.
					got = append(got, resumes(t, ticketServers[first].make(t, server), client))
					if want := []bool{false, true, true, true, true}; !slices.Equal(got, want) {
						t.Errorf("resumed: %v, want %v", got, want)
					}
				})
			}
		}
	}
}

// Keys that change while a server runs: their owner sets them, or they get old.
func TestTicketsRotate(t *testing.T) {
	for _, m := range ticketServers {
		for _, version := range ticketVersions {
			t.Run(m.name+"/"+tls.VersionName(version), func(t *testing.T) {
				now := time.Now()
				config := serverConfig()
				config.Time = func() time.Time { return now }
				server := m.make(t, config)
				client := clientConfig()
				cached(client)
				client.MaxVersion = version
				set := func(keys ...byte) func() {
					var all [][32]byte
					for _, k := range keys {
						all = append(all, [32]byte{k})
					}
					return func() { config.SetSessionTicketKeys(all) }
				}
				later := func(d time.Duration) func() { return func() { now = now.Add(d) } }
				for i, tt := range []struct {
					change func()
					want   bool
				}{
					{later(0), false},
					{later(25 * time.Hour), true}, // a new key, and the old one
					{later(25 * time.Hour), true},
					{later(8 * 24 * time.Hour), false}, // only a new one
					{set(1), false},
					{later(0), true},
					{set(2, 1), true},
					{set(2), true},
					{set(3), false},
				} {
					tt.change()
					if got := resumes(t, server, client); got != tt.want {
						t.Errorf("connection %d: resumed: %v, want %v", i, got, tt.want)
					}
				}
			})
		}
	}
}
