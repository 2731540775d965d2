package ktls

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// A liar is a kernel that reports success and does not do what it should at some
// step.
type liar struct {
	*fakeKernel
	tcp *net.TCPConn

	clear     bool  // sends data as they are
	swallow   bool  // sends nothing
	wrongKey  bool  // has taken another key
	wrongNext bool  // goes on with another number
	keepsKey  bool  // does not replace the key
	shortens  bool  // sends a part
	fromZero  bool  // ignores the number
	asData    bool  // sends control records as data
	err       error // of send
}

func (k *liar) setKey(info []byte, overhead int) error {
	info = bytes.Clone(info)
	if k.wrongKey {
		info[len(info)/2] ^= 1
	}
	if k.wrongNext {
		info[len(info)-1]++
	}
	if k.fromZero {
		clear(info[len(info)-8:])
		if suite := binary.NativeEndian.Uint16(info[2:]); info[0] == 3 && suite != cipherChaCha20Poly1305 {
			clear(info[4:12]) // TLS 1.2's explicit nonce is the number
		}
	}
	return k.fakeKernel.setKey(info, overhead)
}

func (k *liar) rekey(info []byte) error {
	if k.keepsKey {
		return nil
	}
	return k.fakeKernel.rekey(info)
}

func (k *liar) sendControl(typ recordType, body []byte, wait bool) error {
	if k.asData {
		typ = recordApplicationData
	}
	return k.fakeKernel.sendControl(typ, body, wait)
}

func (k *liar) send(p []byte, more bool) (int, error) {
	switch {
	case k.err != nil:
		return 0, k.err
	case k.clear:
		return k.tcp.Write(p)
	case k.swallow:
		return len(p), nil
	case k.shortens:
		_, err := k.fakeKernel.send(p[:1], more)
		return len(p), err
	}
	return k.fakeKernel.send(p, more)
}

// The probe believes no kernel that its records don't open.
func TestProbeOpens(t *testing.T) {
	for _, tt := range []struct {
		name string
		lie  func(*liar)
		// Without rekey there is one lie less to find.
		noRekey bool
	}{
		{name: "in clear", lie: func(k *liar) { k.clear = true }},
		{name: "nothing", lie: func(k *liar) { k.swallow = true }},
		{name: "another key", lie: func(k *liar) { k.wrongKey = true }, noRekey: true},
		{name: "a key replaced at first", lie: func(k *liar) { k.wrongKey = true }},
		{name: "another number", lie: func(k *liar) { k.wrongNext = true }},
		{name: "number 0", lie: func(k *liar) { k.fromZero = true }},
		{name: "an alert as data", lie: func(k *liar) { k.asData = true }},
		{name: "a part", lie: func(k *liar) { k.shortens = true }},
		{name: "the first key again", lie: func(k *liar) { k.keepsKey = true }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			support, err := probeSuites(func(tcp *net.TCPConn) kernel {
				k := &liar{fakeKernel: newFakeKernel(t, tcp), tcp: tcp}
				if tt.noRekey {
					k.rekeyErr = errors.New("refused")
				}
				tt.lie(k)
				return k
			})
			if support.Any() || support.Rekey || !errors.Is(err, errInert) || !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("%v, rekey %v, %v", support, support.Rekey, err)
			}
		})
	}
	for _, rekeyErr := range []error{nil, errors.New("refused")} {
		support, err := probeSuites(func(tcp *net.TCPConn) kernel {
			k := newFakeKernel(t, tcp)
			k.rekeyErr = rekeyErr
			return k
		})
		if err != nil || support.known != 1<<len(suites)-1 || support.Rekey != (rekeyErr == nil) {
			t.Errorf("a kernel that does it all: %v, rekey %v, %v", support, support.Rekey, err)
		}
	}
	// A kernel that lies about one cipher, or fails with it, can have the others.
	for _, broken := range []liar{{clear: true}, {err: os.NewSyscallError("sendmsg", syscall.EBADMSG)}} {
		n := 0
		support, err := probeSuites(func(tcp *net.TCPConn) kernel {
			k := &liar{fakeKernel: newFakeKernel(t, tcp), tcp: tcp}
			if n++; n == 3 {
				k.clear, k.err = broken.clear, broken.err
			}
			return k
		})
		if err != nil || !support.Has(suites[0].id) || !support.Has(suites[1].id) || support.Has(suites[2].id) {
			t.Errorf("a kernel that fails with one cipher: %v, %v", support, err)
		}
	}
}

// Connections that come together cause one probe, and so do handlers that ask.
func TestProbesDontPile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var runs atomic.Int32
		p := &prober{run: func() (Support, error) {
			runs.Add(1)
			return Support{}, errors.New("out of descriptors")
		}}
		for range 2 {
			before := runs.Load()
			for range 50 {
				_, _ = p.probe()
			}
			for range 50 {
				p.supported()
			}
			synctest.Wait()
			if n := runs.Load() - before; n != 1 {
				t.Errorf("%d probes", n)
			}
			time.Sleep(2 * probeAgain)
			for range 50 {
				p.supported()
			}
			synctest.Wait()
			if n := runs.Load() - before; n != 2 {
				t.Errorf("%d probes, with those in the background", n)
			}
			time.Sleep(2 * probeAgain)
		}
	})
}

// A probe's result holds if it is about the kernel; another is tried again later, and
// a kernel that has lied when somebody asks.
func TestProber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := Support{known: 1<<len(suites) - 1}
		var runs atomic.Int32
		var support Support
		var err error
		p := &prober{run: func() (Support, error) { runs.Add(1); return support, err }}
		want := func(n int32, any bool, reason State) {
			t.Helper()
			got, why := p.supported()
			synctest.Wait()
			if runs.Load() != n || got.Any() != any || why != reason {
				t.Errorf("%d probes, %v, %v; want %d, %v, %v", runs.Load(), got, why, n, any, reason)
			}
		}

		err = errors.New("out of descriptors")
		want(1, false, KernelUnsupported)
		want(1, false, KernelUnsupported)
		time.Sleep(probeAgain + time.Second)
		want(2, false, KernelUnsupported) // in the background
		support, err = all, nil
		time.Sleep(probeAgain + time.Second)
		want(3, false, KernelUnsupported)
		want(3, true, NotNeeded)
		time.Sleep(time.Hour)
		want(3, true, NotNeeded)

		p.distrust(errInert)
		want(3, false, KernelUntrusted)
		// A probe that was under way then does not make up for it.
		other := &prober{}
		other.run = func() (Support, error) { other.distrust(errInert); return all, nil }
		_, _ = other.probe()
		if _, reason := other.supported(); reason != KernelUntrusted {
			t.Errorf("trusted again: %v", reason)
		}
		time.Sleep(time.Hour)
		want(3, false, KernelUntrusted)
		support, err = Support{}, errInert
		if _, got := p.probe(); got != errInert {
			t.Errorf("probe: %v", got)
		}
		want(4, false, KernelUnsupported)
		time.Sleep(time.Hour)
		want(4, false, KernelUnsupported) // for good
	})
}

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
					body := testBody(70_000)
					conn.Offload()
					transfer(t, conn, client, body)
					transferFrom(t, conn, client, testFile(t, body), body)
					wantReason(t, conn, KernelUntrusted)
					if err := lie; i > 0 {
						s.wantDecided(t, conn, KernelUntrusted, nil)
					} else {
						s.wantDecided(t, conn, KernelUntrusted, err)
					}
					if *offered != 1 {
						t.Errorf("%d kernels were opened, want one", *offered)
					}
					k.wantSent(t, 0, 0)
					wire := client.NetConn().(*recording).read.Bytes()
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
	transfer(t, conn, client, testBody(1000))
	wantReason(t, conn, KernelUntrusted)
	s.wantDecided(t, conn, KernelUntrusted, errDoubtful)
	if n, err := conn.Write(testBody(70_000)); err == nil {
		t.Errorf("Write = %d, and no error", n)
	}
	if n, err := conn.ReadFrom(testFile(t, testBody(70_000))); err == nil {
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
// for the end of the switch.
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
	wantReason(t, conn, KernelUntrusted)
	if n, err := client.NetConn().Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("the client gets %d bytes, %v", n, err)
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

// Where 127.0.0.1 is missing another address serves.
func TestConnected(t *testing.T) {
	const notHere = "192.0.2.1" // RFC 5737
	near, far, err := connected([]string{notHere, "127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	near.Close()
	far.Close()
	if _, _, err := connected([]string{notHere, notHere}); err == nil || errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("no address: %v", err)
	}
	if hosts := localHosts(); hosts[0] != "127.0.0.1" {
		t.Errorf("hosts %v", hosts)
	}
}
