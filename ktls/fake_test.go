package ktls

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/fakekernel"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A fakeKernel makes records in user space, so that the offload can be tested
// without kernel TLS. It fails the test where a real kernel would corrupt the
// connection.
type fakeKernel struct {
	*fakekernel.Kernel

	// What to simulate.
	setKeyErr  error
	rekeyErr   error
	noSendFile bool
	full       atomic.Bool
	queued     func() (int, error)
	taken      atomic.Uint64 // bytes that the peer has acknowledged
	beforeFile func()        // called before each sendFile

	mu       sync.Mutex
	controls []control
	lastInfo []byte // as given: cleared by the caller afterwards
}

func newFakeKernel(t testing.TB, tcp *net.TCPConn) *fakeKernel {
	return &fakeKernel{Kernel: &fakekernel.Kernel{Wire: tcp, Complain: t.Errorf}}
}

func (k *fakeKernel) setKey(info []byte, overhead int) error {
	if k.setKeyErr != nil {
		return k.setKeyErr
	}
	k.keep(info)
	return k.SetKey(info, overhead)
}

func (k *fakeKernel) rekey(info []byte) error {
	if k.rekeyErr != nil {
		if n := k.Open(); n > 0 {
			k.Complain("new key while a record with %d bytes is open", n)
		}
		return k.rekeyErr
	}
	k.keep(info)
	return k.Rekey(info)
}

func (k *fakeKernel) keep(info []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lastInfo = info
}

func (k *fakeKernel) records() uint64 { return k.Counts().Records }

func (k *fakeKernel) send(p []byte, more bool) (int, error) { return k.Send(p, more) }

func (k *fakeKernel) sendFile(part filerange.Segment, _ waiter) (int64, error) {
	if k.beforeFile != nil {
		k.beforeFile()
	}
	if k.noSendFile {
		return 0, ErrNoSendfile
	}
	return k.SendFile(part.File, part.Offset, part.Len)
}

func (k *fakeKernel) sendFrames(header []byte, part filerange.Segment, payload int64) (int64, error) {
	return k.SendFrames(header, payload, int(part.Len/payload), func(done, left int64) (int64, error) {
		return k.sendFile(filerange.Segment{File: part.File, Offset: part.Offset + done, Len: left}, nil)
	})
}

func (k *fakeKernel) sendControl(typ recordType, body []byte, wait bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !wait && k.full.Load() {
		return errWouldBlock
	}
	k.controls = append(k.controls, control{typ, bytes.Clone(body)})
	return k.SendControl(byte(typ), body)
}

func (k *fakeKernel) cork(on bool) { k.Cork(on) }

func (k *fakeKernel) unsent() (int, error) {
	if k.queued != nil {
		return k.queued()
	}
	return 0, nil
}

func (k *fakeKernel) acked() (uint64, error) { return k.taken.Load(), nil }

// sealerOf returns what makes the records of a key.
func sealerOf(k *trafficKey) fakekernel.Sealer {
	return fakekernel.Sealer{Version: k.suite.version, Explicit: k.suite.explicitNonce(), AEAD: k.aead, IV: [12]byte(k.iv)}
}

// wantSent checks how much the kernel has sent, and how much of that from files.
func (k *fakeKernel) wantSent(t testing.TB, sent, files int) {
	t.Helper()
	if c := k.Counts(); c.Sent != int64(sent) || c.Files != int64(files) {
		t.Errorf("the kernel sent %d bytes, %d of files; want %d and %d", c.Sent, c.Files, sent, files)
	}
	if k.Corked() {
		t.Error("the connection is corked")
	}
}

// A fakeServer is a Server with fake kernels.
type fakeServer struct {
	*Server
	t       testing.TB
	support Support // of its kernels
	setup   func(*fakeKernel)

	mu        sync.Mutex
	last      *fakeKernel
	decisions []decision
	lost      []error
}

// A mode says which connections are offloaded, see Options.OffloadAll.
type mode bool

const (
	onDemand   mode = false // those that ask for it
	offloadAll mode = true  // all, with their first write
)

func (m mode) String() string {
	if m == offloadAll {
		return "all"
	}
	return "demand"
}

type decision struct {
	conn  *Conn
	state State
	err   error
}

// newFakeServer returns a server whose kernels setup may change, if it isn't nil.
func newFakeServer(t testing.TB, config *tls.Config, mode mode, setup func(*fakeKernel)) *fakeServer {
	s := &fakeServer{t: t, setup: setup}
	s.Server = NewServer(config, &Options{
		OffloadAll: bool(mode),
		Decided: func(c *Conn, d Decision) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.decisions = append(s.decisions, decision{c, d.State, d.Err})
		},
		Lost: func(_ *Conn, err error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.lost = append(s.lost, err)
		},
	})
	s.support = Support{known: 1<<len(suites) - 1}
	s.Server.supported = func() (Support, State) { return supportedBy(s.support) }
	s.Server.distrust = func(error) { s.support = Support{} }
	s.newKernel = func(tcp *net.TCPConn) kernel {
		k := newFakeKernel(t, tcp)
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

// supportedBy tells what a kernel with such support can be offered.
func supportedBy(support Support) (Support, State) {
	if support.Any() {
		return support, NotNeeded
	}
	return support, KernelUnsupported
}

// connect returns a connection after the handshake, with its kernel. If the server
// offloads all, it has sent a byte, which has offloaded it.
func (s *fakeServer) connect(t testing.TB, config *tls.Config) (*Conn, *tls.Conn, *fakeKernel) {
	t.Helper()
	clientEnd, serverEnd := tcpPair(t)
	conn := s.Conn(serverEnd)
	client := tls.Client(&testutil.Recording{Conn: clientEnd}, config)
	handshake(t, conn, client)
	s.writeFirst(t, conn, client)
	return conn, client, s.last
}

// writeFirst sends a byte if that offloads the connection.
func (s *fakeServer) writeFirst(t testing.TB, conn *Conn, client io.Reader) {
	t.Helper()
	if s.options.OffloadAll {
		transfer(t, conn, client, []byte("1"))
	}
}

// offloaded returns a connection that is offloaded already.
func offloaded(t testing.TB, setup func(*fakeKernel)) (*Conn, *tls.Conn, *fakeKernel) {
	t.Helper()
	s := newFakeServer(t, serverConfig(), offloadAll, setup)
	conn, client, k := s.connect(t, clientConfig())
	wantState(t, conn, Offloaded)
	return conn, client, k
}

// wantDecided checks that Decided was called once for a connection.
func (s *fakeServer) wantDecided(t testing.TB, conn *Conn, state State, err error) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	var got []decision
	for _, d := range s.decisions {
		if d.conn == conn {
			got = append(got, d)
		}
	}
	if len(got) != 1 || got[0].state != state || got[0].err != err {
		t.Errorf("decisions %v, want one with %v and %v", got, state, err)
	}
}

var _ kernel = (*fakeKernel)(nil)
