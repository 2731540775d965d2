package ktls

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"
)

// A fakeKernel makes records in user space from what install is given,
// so that the switch can be tested without kernel TLS. It shares no code with
// what it tests but the numbers of the header. It fails the test where a real
// kernel would corrupt the connection.
type fakeKernel struct {
	t   testing.TB
	tcp *net.TCPConn

	// What to simulate.
	installErr error
	rekeyErr   error
	noSendFile bool
	maxFile    int64 // what one sendFile sends at most, leaving a record open
	full       atomic.Bool
	queued     func() (queue, error)
	beforeFile func() // called before each sendFile

	mu       sync.Mutex
	key      sealer
	sequence uint64
	open     []byte // data of a record that waits for more
	installs int
	rekeys   int
	sent     int64 // bytes of application data, those of files included
	files    int64 // bytes of files
	made     uint64
	corked   bool
	controls []control
	lastInfo []byte // as given: cleared by the caller afterwards
}

func (k *fakeKernel) install(info []byte, overhead int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.installErr != nil {
		return k.installErr
	}
	key, sequence, err := parseInfo(info)
	if err != nil {
		return err
	}
	if got := len(key.seal(0, 23, nil)); got != overhead {
		k.t.Errorf("overhead %d, want %d", overhead, got)
	}
	k.key, k.sequence = key, sequence
	k.installs++
	k.lastInfo = info
	return nil
}

func (k *fakeKernel) rekey(info []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.open) > 0 {
		k.t.Errorf("new key while a record with %d bytes is open", len(k.open))
	}
	if k.rekeyErr != nil {
		return k.rekeyErr
	}
	key, sequence, err := parseInfo(info)
	if err != nil {
		return err
	}
	if k.made > 0 || sequence != k.sequence { // not the trial
		k.rekeys++
	}
	k.key, k.sequence = key, sequence
	k.lastInfo = info
	return nil
}

func (k *fakeKernel) records() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.made
}

// parseInfo reads a struct tls12_crypto_info_* of include/uapi/linux/tls.h.
func parseInfo(b []byte) (key sealer, sequence uint64, err error) {
	version, kind := binary.NativeEndian.Uint16(b), binary.NativeEndian.Uint16(b[2:])
	size := map[uint16]int{51: 40, 52: 56, 54: 56}[kind]
	if version != 0x0303 && version != 0x0304 || len(b) != size {
		return key, 0, fmt.Errorf("fake: version %#x, cipher %d, %d bytes", version, kind, len(b))
	}
	b = b[4:]
	take := func(n int) (part []byte) {
		part, b = b[:n], b[n:]
		return part
	}
	var iv, salt, secret []byte
	switch kind {
	case 51:
		iv, secret, salt = take(8), take(16), take(4)
	case 52:
		iv, secret, salt = take(8), take(32), take(4)
	case 54:
		iv, secret = take(12), take(32)
	}
	number := take(8)
	sequence = binary.BigEndian.Uint64(number)
	key = sealer{version: version, explicit: version == 0x0303 && kind != 54}
	if key.explicit {
		if !bytes.Equal(iv, number) {
			return key, 0, fmt.Errorf("fake: explicit nonce %x, number %x", iv, number)
		}
		iv = make([]byte, 8)
	}
	copy(key.iv[copy(key.iv[:], salt):], iv)
	if kind == 54 {
		key.aead, err = chacha20poly1305.New(secret)
		return key, sequence, err
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		return key, 0, err
	}
	key.aead, err = cipher.NewGCM(block)
	return key, sequence, err
}

// A sealer makes records by the letter of RFC 8446, section 5.2, or of RFC 5246,
// section 6.2.3.3, with RFC 5288 and RFC 7905.
type sealer struct {
	version  uint16
	explicit bool // the nonce ends with the number, which the record carries
	aead     cipher.AEAD
	iv       [12]byte
}

func sealerOf(k *trafficKey) sealer {
	return sealer{k.suite.version, k.suite.explicitNonce(), k.aead, [12]byte(k.iv)}
}

func (k sealer) seal(sequence uint64, typ byte, content []byte) []byte {
	var number, nonce [12]byte
	binary.BigEndian.PutUint64(number[4:], sequence)
	for i := range nonce {
		nonce[i] = number[i] ^ k.iv[i]
	}
	if k.version == 0x0304 {
		n := len(content) + 1 + k.aead.Overhead()
		header := []byte{23, 3, 3, byte(n >> 8), byte(n)}
		return k.aead.Seal(header, nonce[:], append(bytes.Clone(content), typ), header)
	}
	additional := append(bytes.Clone(number[4:]), typ, 3, 3, byte(len(content)>>8), byte(len(content)))
	n := len(content) + k.aead.Overhead()
	var explicit []byte
	if k.explicit {
		explicit = number[4:]
		n += len(explicit)
	}
	record := append([]byte{typ, 3, 3, byte(n >> 8), byte(n)}, explicit...)
	return k.aead.Seal(record, nonce[:], content, additional)
}

// record writes one record. k.mu is held.
func (k *fakeKernel) record(typ byte, content []byte) error {
	_, err := k.tcp.Write(k.key.seal(k.sequence, typ, content))
	k.sequence++
	k.made++
	return err
}

// data adds application data and writes the records that are complete.
// k.mu is held.
func (k *fakeKernel) data(p []byte, more bool) error {
	k.open = append(k.open, p...)
	k.sent += int64(len(p))
	for len(k.open) >= 16384 || len(k.open) > 0 && !more {
		n := min(len(k.open), 16384)
		if err := k.record(23, k.open[:n]); err != nil {
			return err
		}
		k.open = k.open[n:]
	}
	return nil
}

func (k *fakeKernel) send(p []byte, more bool) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.data(p, more); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (k *fakeKernel) sendFile(f File, offset, n int64) (int64, error) {
	if k.beforeFile != nil {
		k.beforeFile()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.noSendFile {
		return 0, ErrNoSendfile
	}
	m := n
	if k.maxFile > 0 {
		m = min(m, k.maxFile)
	}
	b, err := io.ReadAll(io.NewSectionReader(f, offset, m))
	if err != nil {
		return 0, err
	}
	// A round that sends less than asked for promises more, as splice does.
	if err := k.data(b, int64(len(b)) < n); err != nil {
		return 0, err
	}
	k.files += int64(len(b))
	return int64(len(b)), nil
}

func (k *fakeKernel) sendControl(typ recordType, body []byte, wait bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.open) > 0 {
		k.t.Errorf("control record of type %d while a record with %d bytes is open", typ, len(k.open))
	}
	if !wait && k.full.Load() {
		return errWouldBlock
	}
	k.controls = append(k.controls, control{typ, append([]byte(nil), body...)})
	return k.record(byte(typ), body)
}

func (k *fakeKernel) cork(on bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if on == k.corked {
		k.t.Errorf("cork(%v) again", on)
	}
	k.corked = on
}

func (k *fakeKernel) unsent() (queue, error) {
	if k.queued != nil {
		return k.queued()
	}
	return queue{}, nil
}

// wantSent checks how much the kernel has sent, and how much of that from files.
func (k *fakeKernel) wantSent(t testing.TB, sent, files int) {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.sent != int64(sent) || k.files != int64(files) {
		t.Errorf("the kernel sent %d bytes, %d of files; want %d and %d", k.sent, k.files, sent, files)
	}
	if k.corked {
		t.Error("the connection is corked")
	}
}

// A fakeServer is a Server with fake kernels.
type fakeServer struct {
	*Server
	t     testing.TB
	setup func(*fakeKernel)

	mu        sync.Mutex
	last      *fakeKernel
	decisions []decision
	lost      []error
}

type decision struct {
	conn   *Conn
	reason Reason
	err    error
}

// newFakeServer returns a server whose kernels setup may change, if it isn't nil.
func newFakeServer(t testing.TB, config *tls.Config, install Install, setup func(*fakeKernel)) *fakeServer {
	s := &fakeServer{t: t, setup: setup}
	s.Server = NewServer(config, &Options{
		Install: install,
		Decided: func(c *Conn, reason Reason, err error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.decisions = append(s.decisions, decision{c, reason, err})
		},
		Lost: func(_ *Conn, err error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.lost = append(s.lost, err)
		},
	})
	s.support = Support{known: 1<<len(suites) - 1}
	s.newKernel = func(tcp *net.TCPConn) kernel {
		k := &fakeKernel{t: t, tcp: tcp}
		if s.setup != nil {
			s.setup(k)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.last = k
		return k
	}
	return s
}

// connect returns a connection after the handshake, with its kernel.
func (s *fakeServer) connect(t testing.TB, config *tls.Config) (*Conn, *tls.Conn, *fakeKernel) {
	t.Helper()
	clientEnd, serverEnd := tcpPair(t)
	conn := s.Conn(serverEnd)
	client := tls.Client(&tap{Conn: clientEnd}, config)
	handshake(t, conn, client)
	return conn, client, s.last
}

// offloaded returns a connection that is offloaded already.
func offloaded(t testing.TB, setup func(*fakeKernel)) (*Conn, *tls.Conn, *fakeKernel) {
	t.Helper()
	s := newFakeServer(t, serverConfig(), AtHandshake, setup)
	conn, client, k := s.connect(t, clientConfig())
	wantReason(t, conn, Offloaded)
	return conn, client, k
}

// wantDecided checks that Decided was called once for a connection.
func (s *fakeServer) wantDecided(t testing.TB, conn *Conn, reason Reason, err error) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	var got []decision
	for _, d := range s.decisions {
		if d.conn == conn {
			got = append(got, d)
		}
	}
	if len(got) != 1 || got[0].reason != reason || got[0].err != err {
		t.Errorf("decisions %v, want one with %v and %v", got, reason, err)
	}
}

var _ kernel = (*fakeKernel)(nil)
