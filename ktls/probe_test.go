package ktls

import (
	"bytes"
	"encoding/binary"
	"errors"
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
			time.Sleep(2 * retryProbe)
			for range 50 {
				p.supported()
			}
			synctest.Wait()
			if n := runs.Load() - before; n != 2 {
				t.Errorf("%d probes, with those in the background", n)
			}
			time.Sleep(2 * retryProbe)
		}
	})
}

// A probe's result holds if it is about the kernel; another is tried again later, and
// a kernel that has no kernel TLS, or has lied, when somebody asks.
func TestProber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := Support{known: 1<<len(suites) - 1}
		var runs atomic.Int32
		var support Support
		var err error
		p := &prober{run: func() (Support, error) { runs.Add(1); return support, err }}
		want := func(n int32, any bool, state State) {
			t.Helper()
			got, why := p.supported()
			synctest.Wait()
			if runs.Load() != n || got.Any() != any || why != state {
				t.Errorf("%d probes, %v, %v; want %d, %v, %v", runs.Load(), got, why, n, any, state)
			}
		}

		err = errors.New("out of descriptors")
		want(1, false, KernelUnsupported)
		want(1, false, KernelUnsupported)
		time.Sleep(retryProbe + time.Second)
		want(2, false, KernelUnsupported) // in the background
		support, err = all, nil
		time.Sleep(retryProbe + time.Second)
		want(3, false, KernelUnsupported)
		want(3, true, NotNeeded)
		time.Sleep(time.Hour)
		want(3, true, NotNeeded)

		p.distrust(errInert)
		want(3, false, KernelUntrusted)
		// A probe that was under way then does not make up for it.
		other := &prober{}
		other.run = func() (Support, error) { other.distrust(errInert); return all, nil }
		if _, err := other.probe(); !errors.Is(err, ErrUntrusted) {
			t.Errorf("probe: %v", err)
		}
		if _, state := other.supported(); state != KernelUntrusted {
			t.Errorf("trusted again: %v", state)
		}
		time.Sleep(time.Hour)
		want(3, false, KernelUntrusted)
		support, err = Support{}, errInert
		if _, got := p.probe(); !errors.Is(got, errInert) || !errors.Is(got, ErrUntrusted) {
			t.Errorf("probe: %v", got)
		}
		want(3, false, KernelUntrusted)
		if _, got := p.probeAgain(); got != errInert {
			t.Errorf("probe again: %v", got)
		}
		want(4, false, KernelUnsupported)
		time.Sleep(time.Hour)
		want(4, false, KernelUnsupported)
		support, err = all, nil
		_, _ = p.probe()
		want(4, false, KernelUnsupported)
		_, _ = p.probeAgain()
		want(5, true, NotNeeded)
		_, _ = p.probeAgain()
		want(5, true, NotNeeded) // what works is not tried again
	})
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
