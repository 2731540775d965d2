package ktls

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A peer is a client that shakes hands with crypto/tls and then makes its
// records by hand, for what crypto/tls has no API for: KeyUpdates, alerts,
// garbage. It has not read any session ticket then, unless the server offloads all.
type peer struct {
	t       testing.TB
	conn    net.Conn
	r       *bufio.Reader // everything that the server sends, from the start
	rest    []byte        // of a record that Read has begun
	suite   *suite
	in, out direction

	plaintext bool   // TLS 1.2: what comes next is not encrypted yet
	updates   int    // KeyUpdates that the server has sent
	limit     uint64 // records that the server may make under one key; 0: any number
}

type direction struct {
	secret   []byte
	key      *trafficKey
	sequence uint64
}

func (d *direction) set(t testing.TB, s *suite, secret []byte) {
	t.Helper()
	*d = direction{secret: secret, key: mustKey(t, s, secret)}
}

func (d *direction) update(t testing.TB, s *suite) {
	t.Helper()
	secret, err := nextSecret(s, d.secret)
	if err != nil {
		t.Fatal(err)
	}
	d.set(t, s, secret)
}

// connectPeer returns a connection after the handshake with a hand-made client.
func (s *fakeServer) connectPeer(t testing.TB) (*Conn, *peer, *fakeKernel) {
	t.Helper()
	return s.connectPeerOf(t, tls.VersionTLS13)
}

// connectPeerOf is connectPeer for a version of TLS.
func (s *fakeServer) connectPeerOf(t testing.TB, version uint16) (*Conn, *peer, *fakeKernel) {
	t.Helper()
	clientEnd, serverEnd := tcpPair(t)
	return s.connectPeerOver(t, version, clientEnd, serverEnd)
}

// connectPeerOver is connectPeerOf for the ends of a TCP connection.
func (s *fakeServer) connectPeerOver(t testing.TB, version uint16, clientEnd, serverEnd *net.TCPConn) (*Conn, *peer, *fakeKernel) {
	t.Helper()
	conn := s.Conn(serverEnd)
	wire := &testutil.Recording{Conn: clientEnd}
	var log bytes.Buffer
	config := clientConfig()
	config.KeyLogWriter = &log
	config.MaxVersion = version
	client := tls.Client(wire, config)
	handshake(t, conn, client)

	p := &peer{t: t, conn: clientEnd, suite: suiteByID(client.ConnectionState().CipherSuite)}
	p.r = bufio.NewReader(io.MultiReader(&wire.Got, clientEnd))
	if version == tls.VersionTLS13 {
		p.in.set(t, p.suite, testutil.LoggedSecret(t, log.String(), "SERVER_TRAFFIC_SECRET_0"))
		p.out.set(t, p.suite, testutil.LoggedSecret(t, log.String(), "CLIENT_TRAFFIC_SECRET_0"))
		s.writeFirst(t, conn, p)
		return conn, p, s.last
	}
	// Finished was the first record of each side.
	p.plaintext = true
	master := testutil.LoggedSecret(t, log.String(), "CLIENT_RANDOM")
	clientRandom, serverRandom := conn.tap.counter.key.hellos.client.random(1), conn.tap.counter.key.hellos.server.random(2)
	key, err := newTrafficKey12(p.suite, master, clientRandom, serverRandom)
	if err != nil {
		t.Fatal(err)
	}
	p.in.key = key
	p.out = direction{key: clientKey12(t, p.suite, master, clientRandom, serverRandom), sequence: 1}
	s.writeFirst(t, conn, p)
	return conn, p, s.last
}

// clientKey12 cuts the client's key out of the key block (RFC 5246, section 6.3).
func clientKey12(t testing.TB, s *suite, master, clientRandom, serverRandom []byte) *trafficKey {
	t.Helper()
	ivLen := 12
	if s.kernel != cipherChaCha20Poly1305 {
		ivLen = 4
	}
	block := prf12(s, master, "key expansion", append(bytes.Clone(serverRandom), clientRandom...), 2*s.keyLen+2*ivLen)
	iv := make([]byte, 12)
	copy(iv, block[2*s.keyLen:][:ivLen])
	key, err := newTrafficKey(s, block[:s.keyLen], iv)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// write sends one record.
func (p *peer) write(typ recordType, content []byte) {
	p.t.Helper()
	record := sealerOf(p.out.key).Seal(p.out.sequence, byte(typ), content)
	p.out.sequence++
	if _, err := p.conn.Write(record); err != nil {
		p.t.Error("peer:", err)
	}
}

// keyUpdate sends a KeyUpdate and changes the key.
func (p *peer) keyUpdate(request bool) {
	p.t.Helper()
	message := []byte{24, 0, 0, 1, 0}
	if request {
		message[4] = 1
	}
	p.write(recordHandshake, message)
	p.out.update(p.t, p.suite)
}

// raw sends bytes as they are.
func (p *peer) raw(b ...byte) {
	p.t.Helper()
	if _, err := p.conn.Write(b); err != nil {
		p.t.Error("peer:", err)
	}
}

// garbage sends a record that is not authentic.
func (p *peer) garbage() {
	p.t.Helper()
	p.raw(append([]byte{23, 3, 3, 0, 32}, make([]byte, 32)...)...)
}

var errBadRecordMAC = errors.New("peer: bad_record_mac")

// next returns the server's next record under the application secret, and
// follows KeyUpdates. What precedes the first of them belongs to the handshake.
func (p *peer) next() (recordType, []byte, error) {
	for {
		header, err := p.r.Peek(recordHeaderLen)
		if err != nil {
			return 0, nil, err // io.EOF between records
		}
		record := make([]byte, recordHeaderLen+(int(header[3])<<8|int(header[4])))
		if _, err := io.ReadFull(p.r, record); err != nil {
			return 0, nil, io.ErrUnexpectedEOF
		}
		if p.plaintext || p.suite.version == tls.VersionTLS13 && record[0] != 23 {
			p.plaintext = p.plaintext && record[0] != 20 // ChangeCipherSpec is the last
			continue
		}
		typ, content, ok := p.in.key.open(record, p.in.sequence)
		if !ok {
			if p.in.sequence == 0 {
				continue
			}
			return 0, nil, errBadRecordMAC
		}
		p.in.sequence++
		if p.limit > 0 && p.in.sequence > p.limit {
			return 0, nil, fmt.Errorf("peer: %d records under one key", p.in.sequence)
		}
		if typ == recordHandshake && len(content) == 5 && content[0] == 24 {
			p.in.update(p.t, p.suite)
			p.updates++
		}
		return typ, content, nil
	}
}

// Read reads application data. Other records are skipped, but alerts: a
// close_notify is io.EOF, others are errors, and so is the end without either.
func (p *peer) Read(b []byte) (int, error) {
	for {
		if len(p.rest) > 0 {
			n := copy(b, p.rest)
			p.rest = p.rest[n:]
			return n, nil
		}
		typ, content, err := p.next()
		switch {
		case err == io.EOF:
			return 0, io.ErrUnexpectedEOF
		case err != nil:
			return 0, err
		case typ == recordAlert && bytes.Equal(content, []byte{1, 0}):
			return 0, io.EOF
		case typ == recordAlert:
			return 0, tls.AlertError(content[1])
		case typ == recordApplicationData:
			n := copy(b, content)
			p.rest = content[n:]
			return n, nil
		}
	}
}
