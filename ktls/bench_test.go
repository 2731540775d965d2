package ktls

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A maker makes the server's side of connections for benchmarks. Its name is the
// value of their key "with": benchstat -col /with puts them side by side.
type maker struct {
	name  string
	conn  func(raw net.Conn) net.Conn
	needs func(testing.TB) // skips the benchmark; may be nil
}

func stockMaker(config *tls.Config) maker {
	return maker{name: "stock", conn: func(raw net.Conn) net.Conn { return tls.Server(raw, config) }}
}

func serverMaker(name string, s *Server) maker {
	return maker{name: name, conn: func(raw net.Conn) net.Conn { return s.Conn(raw) }}
}

// recordingServer records as on a machine whose kernel has TLS. It offloads
// nothing.
func recordingServer(config *tls.Config) *Server {
	s := NewServer(config, nil)
	s.supported = func() (Support, State) {
		return Support{known: 1<<len(suites) - 1, Rekey: true}, NotNeeded
	}
	return s
}

// A benchPair is a connection after the handshake and a first write.
type benchPair struct {
	server net.Conn
	client *tls.Conn
	raw    *net.TCPConn // the client's, below TLS
}

func newBenchPair(b *testing.B, m maker, config *tls.Config) benchPair {
	b.Helper()
	if m.needs != nil {
		m.needs(b)
	}
	clientEnd, serverEnd := tcpPair(b)
	_ = clientEnd.SetDeadline(time.Time{}) // a benchmark takes as long as it takes
	p := benchPair{server: m.conn(serverEnd), client: tls.Client(clientEnd, config), raw: clientEnd}
	done := make(chan error, 1)
	go func() { done <- p.server.(interface{ Handshake() error }).Handshake() }()
	if err := p.client.Handshake(); err != nil {
		b.Fatal(err)
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	// The first write offloads the connection, if all are to be.
	if _, err := p.server.Write([]byte{1}); err != nil {
		b.Fatal(err)
	}
	if _, err := io.ReadFull(p.client, make([]byte, 1)); err != nil {
		b.Fatal(err)
	}
	return p
}

// drain takes what the client is sent, without looking at it.
func (p benchPair) drain() { go func() { _, _ = io.Copy(io.Discard, p.raw) }() }

// BenchmarkHandshake is a connection from accept to close, with a write of one
// byte. TCP and the client are a part of it, for all in the same way.
func BenchmarkHandshake(b *testing.B) {
	config := serverConfig()
	benchHandshake(b, stockMaker(config), serverMaker("ktls", recordingServer(config)))
}

func benchHandshake(b *testing.B, makers ...maker) {
	for _, version := range []uint16{tls.VersionTLS13, tls.VersionTLS12} {
		for _, session := range []string{"full", "resumed"} {
			for _, m := range makers {
				b.Run(fmt.Sprintf("tls=%s/session=%s/with=%s", tls.VersionName(version)[4:], session, m.name), func(b *testing.B) {
					if m.needs != nil {
						m.needs(b)
					}
					config := clientConfig()
					config.MaxVersion = version
					if session == "resumed" {
						config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
					}
					ln := testutil.Listen(b)
					connectOnce(b, ln, m, config) // for the ticket
					b.ReportAllocs()
					for b.Loop() {
						if resumed := connectOnce(b, ln, m, config); resumed != (session == "resumed") {
							b.Fatal("resumed:", resumed)
						}
					}
				})
			}
		}
	}
}

// connectOnce reports whether a session was resumed. The byte that the server
// writes brings its session ticket along.
func connectOnce(b *testing.B, ln net.Listener, m maker, config *tls.Config) (resumed bool) {
	b.Helper()
	raw, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer raw.Close()
	_ = raw.(*net.TCPConn).SetLinger(0) // or ports would wait for their reuse
	accepted, err := ln.Accept()
	if err != nil {
		b.Fatal(err)
	}
	server, client := m.conn(accepted), tls.Client(raw, config)
	done := make(chan error, 1)
	go func() { _, err := server.Write([]byte{1}); done <- err }()
	if _, err := io.ReadFull(client, make([]byte, 1)); err != nil {
		b.Fatal(err)
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	server.Close()
	return client.ConnectionState().DidResume
}

// An idleKernel takes keys and makes no records, so that a connection can be
// offloaded again and again: crypto/tls goes on where it was.
type idleKernel struct{ kernel }

func (idleKernel) setKey([]byte, int) error { return nil }
func (idleKernel) rekey([]byte) error       { return nil }

// reverse takes an offload back, of which the kernel has done nothing.
func reverse(conn *Conn) {
	if r := conn.tap.relay.Swap(nil); r != nil {
		conn.tap.counter.key = r.key
		conn.decision.Store(uint32(NotNeeded))
	}
}

// BenchmarkOffload is a response's header, and with ktls the offload behind it:
// copy of the record, proof, keys.
func BenchmarkOffload(b *testing.B) {
	header := testutil.Body(300)
	for _, version := range []uint16{tls.VersionTLS13, tls.VersionTLS12} {
		config := clientConfig()
		config.MaxVersion = version
		server := serverConfig()
		s := recordingServer(server)
		s.newKernel = func(*net.TCPConn) kernel { return idleKernel{} }
		for _, m := range []maker{stockMaker(server), serverMaker("ktls", s)} {
			b.Run(fmt.Sprintf("tls=%s/with=%s", tls.VersionName(version)[4:], m.name), func(b *testing.B) {
				p := newBenchPair(b, m, config)
				p.drain()
				conn, _ := p.server.(*Conn)
				b.ReportAllocs()
				for b.Loop() {
					if conn != nil {
						reverse(conn)
						conn.Offload()
					}
					if _, err := p.server.Write(header); err != nil {
						b.Fatal(err)
					}
					if conn != nil && conn.State() != Offloaded {
						b.Fatal(conn.State())
					}
				}
			})
		}
	}
}

// BenchmarkWrite is what crypto/tls writes, before the offload.
func BenchmarkWrite(b *testing.B) {
	config := serverConfig()
	benchWrite(b, stockMaker(config), serverMaker("ktls", recordingServer(config)))
}

func benchWrite(b *testing.B, makers ...maker) {
	for _, size := range []int{1 << 10, 16 << 10} {
		for _, m := range makers {
			b.Run(fmt.Sprintf("size=%d/with=%s", size, m.name), func(b *testing.B) {
				p := newBenchPair(b, m, clientConfig())
				p.drain()
				body := testutil.Body(size)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := p.server.Write(body); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkRead is a small record that arrives, and its way from a stock client.
func BenchmarkRead(b *testing.B) {
	config := serverConfig()
	for _, size := range []int{16, 1 << 10} {
		for _, m := range []maker{stockMaker(config), serverMaker("ktls", recordingServer(config))} {
			b.Run(fmt.Sprintf("size=%d/with=%s", size, m.name), func(b *testing.B) {
				p := newBenchPair(b, m, clientConfig())
				body, got := testutil.Body(size), make([]byte, size)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := p.client.Write(body); err != nil {
						b.Fatal(err)
					}
					if _, err := io.ReadFull(p.server, got); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
