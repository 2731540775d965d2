package ktls

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Probe tries each cipher on a loopback connection: it gives the kernel a key, sends a
// record and decrypts it, then does so again with a second key. A system call that
// succeeds proves nothing, because sandboxes answer without doing anything. Setting the
// TLS layer makes the kernel load its tls module, if the process may do that.
//
// If no cipher works at all, the error says what is missing. It is an *[UnsupportedError]
// if the kernel, or the operating system, doesn't have kernel TLS. A result that says
// something about the kernel is kept until [ProbeAgain]. A failure to make the connections
// is not kept.
func Probe() (Support, error) { return system.probe() }

// ProbeAgain is [Probe] for when the machine may have changed, as when a program loads a
// new configuration. It tries again if the last result was that the kernel has no kernel
// TLS, or if a connection has shown that the kernel can't be trusted. What works is not
// tried again.
func ProbeAgain() (Support, error) { return system.probeAgain() }

// system has what is known of the kernel that the process runs on.
var system = prober{run: probeKernel}

// A prober keeps the result of a probe.
type prober struct {
	run func() (Support, error)

	probing sync.Mutex // held while run runs
	result  atomic.Pointer[probeResult]
}

type probeResult struct {
	support Support
	err     error
	final   bool // the result is about the kernel, so it holds until ProbeAgain
	suspect bool // a connection has shown that the kernel can't be trusted
	at      time.Time
}

// retryProbe is how long a result that is not about the kernel holds.
const retryProbe = 10 * time.Second

func (p *prober) probe() (Support, error) { return p.probeUnless((*probeResult).holds) }

func (p *prober) probeAgain() (Support, error) {
	return p.probeUnless(func(r *probeResult) bool { return r.support.Any() })
}

// probeUnless probes, unless there is a result that is good enough.
func (p *prober) probeUnless(good func(*probeResult) bool) (Support, error) {
	p.probing.Lock()
	defer p.probing.Unlock()
	r := p.result.Load()
	if r == nil || !good(r) {
		r = p.probeNow()
	}
	return r.support, r.err
}

// probeNow probes. It returns what is known then: a connection may meanwhile have shown
// that the kernel can't be trusted. Caller holds p.probing.
func (p *prober) probeNow() *probeResult {
	before := p.result.Load()
	support, err := p.run()
	r := &probeResult{support: support, err: err, final: err == nil || errors.Is(err, errors.ErrUnsupported), at: time.Now()}
	if !p.result.CompareAndSwap(before, r) {
		return p.result.Load()
	}
	return r
}

func (r *probeResult) holds() bool { return r.final || time.Since(r.at) < retryProbe }

// supported returns what can be offloaded now, with NotNeeded, or why nothing can. It
// waits for the first probe, but for no other.
func (p *prober) supported() (Support, State) {
	r := p.result.Load()
	if r == nil {
		_, _ = p.probe()
		r = p.result.Load()
	}
	switch {
	case r.suspect:
		return Support{}, KernelUntrusted
	case r.support.Any():
		return r.support, NotNeeded
	case !r.holds() && p.probing.TryLock():
		go func() {
			defer p.probing.Unlock()
			if !p.result.Load().holds() { // still
				p.probeNow()
			}
		}()
	}
	return Support{}, KernelUnsupported
}

// distrust stops the offload of connections until somebody calls ProbeAgain.
func (p *prober) distrust(err error) {
	p.result.Store(&probeResult{err: fmt.Errorf("%w: %w", ErrUntrusted, err), final: true, suspect: true})
}

// probeSuites tries each suite with a kernel that open returns.
func probeSuites(open func(*net.TCPConn) kernel) (Support, error) {
	var support Support
	var missing error
	for i := range suites {
		s := &suites[i]
		// The kind of certificate makes no difference to the kernel.
		if i > 0 && s.version == suites[i-1].version && s.kernel == suites[i-1].kernel {
			if support.Has(suites[i-1].id) {
				support.known |= 1 << i
			}
			continue
		}
		rekey, err := probeSuite(s, open)
		switch {
		case err == nil:
			support.known |= 1 << i
			support.Rekey = support.Rekey || rekey
		case !errors.Is(err, errors.ErrUnsupported), errors.Is(err, errSetULP):
			return Support{}, err
		default:
			missing = errors.Join(missing, err)
		}
	}
	if support.Any() {
		return support, nil
	}
	return support, missing
}

// These say which step of setting a key has failed.
var (
	errSetULP = errors.New("set TCP_ULP")
	errSetTX  = errors.New("set TLS_TX")
)

// A probeRecord is a record that the kernel must make.
type probeRecord struct {
	key      *trafficKey
	sequence uint64
	typ      recordType
	content  []byte
}

// probeSuite sends data under a random key, then under a second one if the kernel takes
// it, and then an alert. It decrypts all of it.
func probeSuite(s *suite, open func(*net.TCPConn) kernel) (rekey bool, err error) {
	near, far, err := loopback()
	if err != nil {
		return false, fmt.Errorf("ktls: probe: %w", err)
	}
	defer near.Close()
	defer far.Close()
	_ = near.SetDeadline(time.Now().Add(probeTimeout))
	_ = far.SetDeadline(time.Now().Add(probeTimeout))

	k := open(near)
	key, number := randomKey(s), randomNumber()
	defer key.wipe()
	if err := setProbeKey(k, key, number); err != nil {
		return false, err
	}
	want := []probeRecord{{key, number, recordApplicationData, []byte(probeText)}}
	if _, err := k.send([]byte(probeText), false); err != nil {
		return false, unsupported(err, "the kernel can't send with "+s.String())
	}
	second, number2 := randomKey(s), randomNumber()
	defer second.wipe()
	info := cryptoInfo(second, number2)
	defer clear(info)
	if rekey = k.rekey(info) == nil; rekey {
		key, number = second, number2
		want = append(want, probeRecord{key, number, recordApplicationData, []byte(probeText)})
		if _, err := k.send([]byte(probeText), false); err != nil {
			return false, unsupported(err, "the kernel can't send with a second key of "+s.String())
		}
	}
	want = append(want, probeRecord{key, number + 1, recordAlert, closeNotify[:]})
	if err := k.sendControl(recordAlert, closeNotify[:], true); err != nil {
		return false, unsupported(err, "the kernel can't send an alert with "+s.String())
	}
	near.Close() // so that ReadAll ends after the records
	wire, err := io.ReadAll(far)
	if err != nil {
		return false, fmt.Errorf("ktls: probe: %w", err)
	}
	for i, r := range want {
		record, rest, _ := cutRecord(wire)
		wire = rest
		if r.key.aead == nil {
			continue // FIPS, see randomKey
		}
		if typ, content, ok := r.key.open(record, r.sequence); !ok || typ != r.typ || !bytes.Equal(content, r.content) {
			return false, fmt.Errorf("ktls: probe %v: %w (record %d of %d is wrong)", s, errInert, i+1, len(want))
		}
	}
	return rekey, nil
}

const (
	// probeTimeout limits the exchange of a few records over loopback.
	probeTimeout = 20 * time.Second
	probeText    = "a record that the kernel has made"
)

// randomNumber returns a sequence number for the first record. Nobody uses it by chance,
// and it is far from the last possible one.
func randomNumber() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return 1<<40 + uint64(binary.BigEndian.Uint32(b[:]))
}

// randomKey returns a key for the suite. Where FIPS 140 is enforced the key may not be
// able to open a record. No connection is offloaded then, and the state is FIPS.
func randomKey(s *suite) *trafficKey {
	key, iv := make([]byte, s.keyLen), make([]byte, 12)
	_, _ = rand.Read(key) // never fails
	_, _ = rand.Read(iv)
	if s.explicitNonce() {
		clear(iv[s.saltLen:]) // where the sequence number goes
	}
	k := &trafficKey{suite: s, key: key, iv: iv}
	k.aead, _ = s.newAEAD(key)
	return k
}

func setProbeKey(k kernel, key *trafficKey, number uint64) error {
	info := cryptoInfo(key, number)
	defer clear(info)
	err := k.setKey(info, key.suite.overhead())
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errInert):
		return err
	case errors.Is(err, errSetULP):
		return unsupported(err, "the kernel has no TLS layer: its module tls is not loaded, or was not built")
	}
	return unsupported(err, "the kernel can't do "+key.suite.String())
}
