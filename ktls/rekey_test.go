package ktls

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"syscall"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// rekeyServer is a server whose kernels can replace keys, or can't.
func rekeyServer(t testing.TB, rekey bool, setup func(*fakeKernel)) *fakeServer {
	s := newFakeServer(t, serverConfig(), offloadAll, setup)
	s.support.Rekey = rekey
	return s
}

// readBack lets conn read what the peer sends, behind what it has sent before.
func readBack(t testing.TB, conn *Conn, p *peer) {
	t.Helper()
	p.write(recordApplicationData, []byte("data"))
	got := make([]byte, 4)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "data" {
		t.Fatalf("read %q, %v", got, err)
	}
}

// If the kernel can't follow a KeyUpdate it stays with its key, nothing is
// answered, everything works, and the connection is retired.
func TestRetired(t *testing.T) {
	t.Run("kernel", func(t *testing.T) { testRetired(t, rekeyServer(t, false, nil)) })
	t.Run("connection", func(t *testing.T) {
		testRetired(t, rekeyServer(t, true, func(k *fakeKernel) { k.rekeyErr = errors.New("refused") }))
	})
}

func testRetired(t *testing.T, s *fakeServer) {
	s.options.InterruptRetired = true
	conn, p, k := s.connectPeer(t)
	readBack(t, conn, p)
	if conn.Retired() {
		t.Error("retired without a KeyUpdate")
	}
	p.keyUpdate(true)
	if n, err := conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, ErrRetired) || !conn.Retired() {
		t.Errorf("Read = %d, %v; retired %v", n, err, conn.Retired())
	}
	readBack(t, conn, p)
	for range 3 {
		transfer(t, conn, p, testutil.Body(70_000))
		p.keyUpdate(true)
		readBack(t, conn, p)
	}
	transfer(t, conn, p, testutil.Body(70_001))
	if k.Counts().Rekeys > 0 {
		t.Error("a new key")
	}
	if err := conn.Close(); err != nil {
		t.Error("Close:", err)
	}
	p.wantControl(t, recordAlert, 1, 0)
	wantZeroed(t, conn)
}

// A kernel that takes no other key after all: the peer waits for it, so nothing
// may follow, not even close_notify.
func TestRekeyRefused(t *testing.T) {
	refused := errors.New("refused")
	s := rekeyServer(t, true, nil)
	conn, p, k := s.connectPeer(t)
	transfer(t, conn, p, testutil.Body(70_000))
	k.rekeyErr = refused
	p.keyUpdate(true)
	readBack(t, conn, p)
	p.wantControl(t, recordHandshake, 24, 0, 0, 1, 0)
	_, err := conn.Write([]byte("x"))
	testutil.WantError(t, err, errRekey)
	testutil.WantError(t, err, refused)
	_, err = conn.SendFile(nil, filerange.Segment{File: testutil.OpenFile(t, testutil.Body(1000)), Len: 1000})
	testutil.WantError(t, err, errRekey)
	conn.Close()
	if typ, content, err := p.next(); err != io.EOF {
		t.Errorf("after the refusal: %d, %x, %v", typ, content, err)
	}
	wantZeroed(t, conn)
}

// A key of AES-GCM is replaced in time by ourselves; if it can't be, the
// connection is retired.
func TestKeyLimit(t *testing.T) {
	const limit = 20
	for _, rekey := range []bool{true, false} {
		s := rekeyServer(t, rekey, func(k *fakeKernel) { k.MaxFile = 5 * maxPayload / 2 })
		s.keyLimit = limit
		conn, p, k := s.connectPeer(t)
		p.limit = limit + 5 // what one round makes, and those that close a record
		if conn.renewal.suite.kernel == cipherChaCha20Poly1305 {
			t.Skip("crypto/tls has chosen ChaCha20-Poly1305, which has no limit")
		}
		if want := limit - k.Sequence(); conn.renewal.at != want {
			t.Errorf("renewed after %d records, want %d", conn.renewal.at, want)
		}
		if rekey {
			p.limit = limit + 5
		} else {
			p.limit = math.MaxUint64
		}
		for range 30 {
			transfer(t, conn, p, testutil.Body(5))
		}
		body := testutil.Body(2_000_000)
		wait := receiving(t, p, body)
		if n, err := conn.SendFile(nil, filerange.Segment{File: testutil.OpenFile(t, body), Len: int64(len(body))}); n != int64(len(body)) || err != nil {
			t.Errorf("SendFile = %d, %v", n, err)
		}
		wait()
		// crypto/tls knows nothing of it: the peer can ask for more.
		for range 3 {
			p.keyUpdate(true)
			readBack(t, conn, p)
			transfer(t, conn, p, testutil.Body(70_000))
		}
		if rekey != (k.Counts().Rekeys >= 150/limit) || rekey == conn.Retired() {
			t.Errorf("%d rekeys, retired %v", k.Counts().Rekeys, conn.Retired())
		}
		conn.Close()
		wantEnd(t, p)
	}
}

// Java asks for a new key again and again from a number of bytes on, each record's
// type among them. That leaves room for a response under way.
func TestKeyLimitOfJava(t *testing.T) {
	const java = 1 << 37 // jdk.tls.keyLimits of its file java.security
	if ours := uint64(keyLimit) * (maxPayload + 1); ours > java/4*3 {
		t.Errorf("our own KeyUpdate comes after %d bytes, Java's after %d", ours, uint64(java))
	}
}

// ChaCha20-Poly1305 has no limit, and TLS 1.2 no KeyUpdate.
func TestFirstRenewal(t *testing.T) {
	keyLimit := NewServer(serverConfig(), nil).keyLimit
	for i := range suites {
		s := &suites[i]
		want := uint64(1<<22 - 7)
		if s.kernel == cipherChaCha20Poly1305 {
			want = math.MaxUint64
		}
		if got := firstRenewal(s, 7, keyLimit); got != want {
			t.Errorf("%v: renewal after %d records, want %d", s, got, want)
		}
		if got := firstRenewal(s, 1<<40, keyLimit); s.kernel != cipherChaCha20Poly1305 && got != 0 {
			t.Errorf("%v: renewal after %d records, want at once", s, got)
		}
	}
}

// The first connection of a kind tells of the others whether their keys can be
// replaced, until one is refused after all.
func TestRekeyAskedOnce(t *testing.T) {
	var r rekeys
	tries := 0
	try := func(err error) func() error { return func() error { tries++; return err } }
	at := func(last byte, port int) net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, last), Port: port} }
	aes, chacha := &suites[0], &suites[2]
	for i, tt := range []struct {
		address net.Addr
		suite   *suite
		err     error
		want    bool
		tries   int
	}{
		// What says nothing of others.
		{at(1, 1), aes, syscall.ENOMEM, false, 1},
		{at(1, 1), aes, syscall.ENOBUFS, false, 2},
		{at(1, 1), aes, fmt.Errorf("%w: %w", errSetTX, net.ErrClosed), false, 3},
		{at(1, 1), aes, nil, true, 4},
		{at(1, 2), aes, io.EOF, true, 4},
		{at(1, 2), chacha, syscall.EOPNOTSUPP, false, 5},
		{at(1, 2), chacha, nil, false, 5},
		{at(2, 1), aes, fmt.Errorf("%w: %w", errSetTX, syscall.EBUSY), false, 6},
		{at(2, 1), aes, nil, false, 6},
		{&net.UnixAddr{}, aes, nil, true, 7},
		{&net.UnixAddr{}, aes, nil, true, 8},
	} {
		if got := r.ask(tt.address, tt.suite, try(tt.err)); got != tt.want || tries != tt.tries {
			t.Errorf("%d: %v after %d tries, want %v after %d", i, got, tries, tt.want, tt.tries)
		}
	}
	for _, err := range []error{syscall.ENOMEM, net.ErrClosed} { // say nothing of others
		r.refused(at(1, 3), aes, err)
		if !r.ask(at(1, 4), aes, try(nil)) {
			t.Error("no rekey since", err)
		}
	}
	r.refused(at(1, 3), aes, syscall.EOPNOTSUPP)
	if r.ask(at(1, 4), aes, try(nil)) {
		t.Error("asked again after a refusal")
	}
	for i := range 3 * maxRekeys {
		r.ask(&net.TCPAddr{IP: net.IPv4(10, 0, byte(i>>8), byte(i))}, aes, try(nil))
	}
	if len(r.known) > maxRekeys {
		t.Errorf("%d addresses are remembered", len(r.known))
	}
}

// One connection whose key can't be replaced after all ends; those that follow are
// retired in order.
func TestRekeyRefusedLater(t *testing.T) {
	s := rekeyServer(t, true, nil)
	_, _, _ = s.connectPeer(t) // says that it can be done
	s.setup = func(k *fakeKernel) { k.rekeyErr = syscall.EOPNOTSUPP }
	for i := range 3 {
		conn, p, _ := s.connectPeer(t)
		p.keyUpdate(true)
		readBack(t, conn, p)
		_, err := conn.Write([]byte("x"))
		if first := i == 0; errors.Is(err, errRekey) != first || conn.Retired() == first {
			t.Errorf("connection %d: %v, retired %v", i, err, conn.Retired())
		}
	}
}
