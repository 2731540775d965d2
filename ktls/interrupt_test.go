package ktls

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
)

// A blockedCall is a call on a connection that waits, and may wait for ever.
type blockedCall struct {
	name string
	// begin returns a connection and a call on it that will block. When it does
	// blocked is closed, or the call may be taken for blocked after a while.
	begin func(t *testing.T) (conn net.Conn, call func() error, blocked <-chan struct{})

	// What the call doesn't obey, because the system call that it is in can't be
	// interrupted, or because crypto/tls waits for a callback.
	ignoresClose, ignoresDeadline bool
}

// soon tells "at once" from "for ever", on a busy machine too.
const soon = 15 * time.Second

// fill sends until the connection takes no more.
func fill(write func([]byte) (int, error)) error {
	body := testBody(1 << 20)
	for {
		if _, err := write(body); err != nil {
			return err
		}
	}
}

func settled() <-chan struct{} {
	blocked := make(chan struct{})
	time.AfterFunc(300*time.Millisecond, func() { close(blocked) })
	return blocked
}

// hangingCertificate returns a configuration whose handshake hangs, when it does,
// and what ends that.
func hangingCertificate() (config *tls.Config, hangs <-chan struct{}, release func()) {
	config = serverConfig()
	certificate := config.Certificates[0]
	config.Certificates = nil
	begun, goOn := make(chan struct{}), make(chan struct{})
	config.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		close(begun)
		<-goOn
		return &certificate, nil
	}
	return config, begun, func() { close(goOn) }
}

var portableCalls = []blockedCall{
	{name: "handshake in GetCertificate", ignoresClose: true, ignoresDeadline: true,
		begin: func(t *testing.T) (net.Conn, func() error, <-chan struct{}) {
			config, hangs, release := hangingCertificate()
			t.Cleanup(release)
			s := newFakeServer(t, config, onDemand, nil)
			s.options.Decided = func(c *Conn, d Decision) { _ = c.LocalAddr() }
			clientEnd, serverEnd := tcpPair(t)
			conn := s.Conn(serverEnd)
			go func() { _ = tls.Client(clientEnd, clientConfig()).Handshake() }()
			return conn, conn.Handshake, hangs
		}},
	{name: "handshake with a silent client",
		begin: func(t *testing.T) (net.Conn, func() error, <-chan struct{}) {
			s := newFakeServer(t, serverConfig(), onDemand, nil)
			_, serverEnd := tcpPair(t)
			conn := s.Conn(serverEnd)
			return conn, conn.Handshake, settled()
		}},
	{name: "Read",
		begin: func(t *testing.T) (net.Conn, func() error, <-chan struct{}) {
			conn, _, _ := newFakeServer(t, serverConfig(), onDemand, nil).connect(t, clientConfig())
			return conn, func() error { _, err := conn.Read(make([]byte, 1)); return err }, settled()
		}},
	{name: "Read after the offload",
		begin: func(t *testing.T) (net.Conn, func() error, <-chan struct{}) {
			conn, _, _ := offloaded(t, nil)
			return conn, func() error { _, err := conn.Read(make([]byte, 1)); return err }, settled()
		}},
	{name: "Write before the offload",
		begin: func(t *testing.T) (net.Conn, func() error, <-chan struct{}) {
			conn, _, _ := newFakeServer(t, serverConfig(), onDemand, nil).connect(t, clientConfig())
			return conn, func() error { return fill(conn.Write) }, settled()
		}},
	{name: "Write that offloads",
		begin: func(t *testing.T) (net.Conn, func() error, <-chan struct{}) {
			conn, _, _ := newFakeServer(t, serverConfig(), onDemand, nil).connect(t, clientConfig())
			conn.Offload()
			return conn, func() error { _, err := conn.Write(testBody(64 << 20)); return err }, settled()
		}},
	{name: "Write after the offload",
		begin: func(t *testing.T) (net.Conn, func() error, <-chan struct{}) {
			conn, _, _ := offloaded(t, nil)
			return conn, func() error { return fill(conn.Write) }, settled()
		}},
	{name: "ReadFrom of what is no file",
		begin: func(t *testing.T) (net.Conn, func() error, <-chan struct{}) {
			conn, _, _ := offloaded(t, nil)
			return conn, func() error {
				_, err := conn.ReadFrom(io.MultiReader(neverEnding{}))
				return err
			}, settled()
		}},
}

type neverEnding struct{}

func (neverEnding) Read(p []byte) (int, error) { return len(p), nil }

// Whatever a connection waits for, Close returns at once and ends it; and so does a
// deadline, but for what nothing can interrupt.
func TestInterrupt(t *testing.T) { testInterrupt(t, portableCalls) }

func testInterrupt(t *testing.T, calls []blockedCall) {
	for _, call := range calls {
		t.Run(call.name+"/Close", func(t *testing.T) {
			t.Parallel()
			conn, f, blocked := call.begin(t)
			ended := make(chan error, 1)
			go func() { ended <- f() }()
			<-blocked
			closed := make(chan struct{})
			go func() { defer close(closed); _ = conn.Close() }()
			select {
			case <-closed:
			case <-time.After(soon):
				t.Error("Close waits")
			}
			if call.ignoresClose {
				return
			}
			select {
			case err := <-ended:
				if err == nil {
					t.Error("the call succeeded")
				}
			case <-time.After(soon):
				t.Error("the call goes on after Close")
			}
		})
		if call.ignoresDeadline {
			continue
		}
		t.Run(call.name+"/SetDeadline", func(t *testing.T) {
			t.Parallel()
			conn, f, blocked := call.begin(t)
			ended := make(chan error, 1)
			go func() { ended <- f() }()
			<-blocked
			if err := conn.SetDeadline(time.Unix(1, 0)); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-ended:
				wantError(t, err, os.ErrDeadlineExceeded)
			case <-time.After(soon):
				t.Error("the call goes on after its deadline")
			}
			conn.Close()
		})
	}
}

// Close comes while another goroutine's Write is offloading the connection: Decided
// and Closed agree on what became of it.
func TestCloseDuringMove(t *testing.T) {
	setting, goOn := make(chan struct{}), make(chan struct{})
	s := newFakeServer(t, serverConfig(), onDemand, nil)
	closed := 0
	s.options.Closed = func(*Conn) { closed++ }
	inner := s.newKernel
	s.newKernel = func(tcp *net.TCPConn) kernel { return &slowKey{inner(tcp), setting, goOn} }
	conn, client, _ := s.connect(t, clientConfig())
	conn.Offload()
	var both sync.WaitGroup
	both.Go(func() { _, _ = conn.Write([]byte("proof")) })
	<-setting
	both.Go(func() { _ = conn.Close() })
	for conn.decision.Load() == 0 { // Close has decided
		time.Sleep(time.Millisecond)
	}
	close(goOn)
	both.Wait()
	if got, err := io.ReadAll(client); string(got) != "proof" {
		t.Errorf("the client reads %q, %v", got, err)
	}
	s.wantDecided(t, conn, NotNeeded, nil)
	if closed != 0 {
		t.Errorf("Closed was called %d times for a connection that was never offloaded", closed)
	}
	wantZeroed(t, conn)
}

type slowKey struct {
	kernel
	setting, goOn chan struct{}
}

func (k *slowKey) setKey(info []byte, overhead int) error {
	close(k.setting)
	<-k.goOn
	return k.kernel.setKey(info, overhead)
}

// Secrets that come when the connection is closed already are not kept.
func TestSecretAfterClose(t *testing.T) {
	config, begun, release := hangingCertificate()
	s := newFakeServer(t, config, onDemand, nil)
	clientEnd, serverEnd := tcpPair(t)
	conn := s.Conn(serverEnd)
	go func() { _ = tls.Client(clientEnd, clientConfig()).Handshake() }()
	done := make(chan error, 1)
	go func() { done <- conn.Handshake() }()
	<-begun
	conn.Close()
	release()
	if err := <-done; err == nil {
		t.Error("the handshake succeeded")
	}
	wantZeroed(t, conn)
	// What crypto/tls logs even later is forgotten too.
	late := testBody(32)
	conn.tap.counter.setSecret(late)
	wantZero(t, "late secret", late)
	wantZeroed(t, conn)
}

// Close comes while the reader sends the answer to a KeyUpdate to a client that is
// slow: what was accepted before is not cut, and close_notify follows.
func TestCloseWhileReaderSends(t *testing.T) {
	s, k := slowServer(t)
	conn, p, _ := s.connectPeer(t)
	transfer(t, conn, p, testBody(70_000))
	reader := make(chan error, 1)
	go func() { _, err := conn.Read(make([]byte, 1)); reader <- err }()
	p.keyUpdate(true)
	<-k.waiting
	if err := conn.Close(); err != nil {
		t.Error("Close:", err)
	}
	wantError(t, <-reader, net.ErrClosed)
	wantEnd(t, p) // with close_notify
	waitFor(t, s.Server)
	s.wantNoneLost(t)
	wantZeroed(t, conn)
}

// A slowControl has no room for a KeyUpdate, and waits for it as a socket does: until
// the write deadline, or the end of the connection.
type slowControl struct {
	kernel
	tcp     *net.TCPConn
	waiting chan struct{}
	waits   sync.Once
}

func (k *slowControl) sendControl(typ recordType, body []byte, wait bool) error {
	if typ != recordHandshake {
		return k.kernel.sendControl(typ, body, wait)
	}
	k.waits.Do(func() { close(k.waiting) })
	raw, err := k.tcp.SyscallConn()
	for err == nil {
		time.Sleep(time.Millisecond)
		err = raw.Write(func(uintptr) bool { return true })
	}
	return err
}

// slowServer is a server of whose connections the last one waits with its KeyUpdate.
func slowServer(t *testing.T) (*fakeServer, *slowControl) {
	s := rekeyServer(t, true, nil)
	k := &slowControl{waiting: make(chan struct{})}
	inner := s.newKernel
	s.newKernel = func(tcp *net.TCPConn) kernel { k.kernel, k.tcp = inner(tcp), tcp; return k }
	return s, k
}

// The same if it is a Write that has sent its data and goes on with the answer.
func TestCloseDuringTrailingControl(t *testing.T) {
	s, k := slowServer(t)
	conn, p, _ := s.connectPeer(t)
	conn.lock()
	p.keyUpdate(true)
	readBack(t, conn, p)
	ended := make(chan struct{})
	go func() { defer close(ended); conn.unlock() }() // the end of a Write
	<-k.waiting
	if err := conn.Close(); err != nil {
		t.Error("Close:", err)
	}
	select {
	case <-ended:
	case <-time.After(soon):
		t.Error("the Write goes on after Close")
	}
	wantEnd(t, p)
	waitFor(t, s.Server)
	s.wantNoneLost(t)
}

// An answer to a KeyUpdate that can't be sent before a deadline that net/http has left
// behind cuts nothing: Close ends the connection in order.
func TestCloseAfterStaleDeadline(t *testing.T) {
	s, k := slowServer(t)
	conn, p, _ := s.connectPeer(t)
	transfer(t, conn, p, testBody(70_000))
	if err := conn.SetWriteDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	p.keyUpdate(true)
	readBack(t, conn, p)
	<-k.waiting
	s.end(t, conn, p)
}

// A file that is cut by a deadline, though it was a KeyUpdate that had to wait, does not
// end in order.
func TestFileCutByControl(t *testing.T) {
	s, k := slowServer(t)
	conn, p, _ := s.connectPeer(t)
	body := testBody(900_000)
	conn.lock() // until SendFile waits and the request for a key is there
	sent := make(chan error, 1)
	go func() {
		_, err := conn.SendFile(nil, filerange.Segment{File: testFile(t, body), Len: int64(len(body))})
		sent <- err
	}()
	p.keyUpdate(true)
	readBack(t, conn, p)
	conn.out.Unlock()
	conn.calls.Add(-1)
	<-k.waiting
	_ = conn.SetWriteDeadline(time.Unix(1, 0))
	wantError(t, <-sent, os.ErrDeadlineExceeded)
	conn.Close()
	got, err := io.ReadAll(p)
	if !errors.Is(err, io.ErrUnexpectedEOF) || !bytes.HasPrefix(body, got) {
		t.Errorf("the client gets %d bytes, %v; want a beginning and no orderly end", len(got), err)
	}
}

// An error that no call of the user's has returned is told by Lost.
func TestReaderErrorIsTold(t *testing.T) {
	broken := errors.New("broken")
	s := rekeyServer(t, true, nil)
	inner := s.newKernel
	s.newKernel = func(tcp *net.TCPConn) kernel { return &failingControl{inner(tcp), broken} }
	conn, p, _ := s.connectPeer(t)
	transfer(t, conn, p, testBody(70_000))
	p.keyUpdate(true)
	readBack(t, conn, p)
	conn.Close()
	waitFor(t, s.Server)
	if len(s.lost) != 1 || !errors.Is(s.lost[0], broken) {
		t.Errorf("lost: %v, want %v", s.lost, broken)
	}
}

type failingControl struct {
	kernel
	err error
}

func (k *failingControl) sendControl(typ recordType, body []byte, wait bool) error {
	if typ == recordHandshake {
		return k.err
	}
	return k.kernel.sendControl(typ, body, wait)
}

// CloseWrite that has timed out leaves close_notify to Close, which drains.
func TestCloseAfterCloseWrite(t *testing.T) {
	s, full := fullServer(t)
	conn, client, _ := s.connect(t, clientConfig())
	transfer(t, conn, client, testBody(70_000))
	wantError(t, conn.CloseWrite(), os.ErrDeadlineExceeded)
	_, err := conn.Write([]byte("x"))
	wantError(t, err, errWriteShut)
	if err := conn.Close(); err != nil {
		t.Error("Close:", err)
	}
	full.on.Store(false)
	wantEnd(t, client)
	waitFor(t, s.Server)
	s.wantNoneLost(t)
}

// Calls that come after Close do not keep what was accepted before from its end.
func TestCallsAfterClose(t *testing.T) {
	s, full := fullServer(t)
	conn, client, _ := s.connect(t, clientConfig())
	transfer(t, conn, client, testBody(70_000))
	if err := conn.Close(); err != nil {
		t.Error("Close:", err)
	}
	_, err := conn.Write([]byte("x"))
	wantError(t, err, net.ErrClosed)
	_, err = conn.SendFile([]byte("x"), filerange.Segment{File: testFile(t, testBody(10)), Len: 10})
	wantError(t, err, net.ErrClosed)
	wantError(t, conn.CloseWrite(), net.ErrClosed)
	full.on.Store(false)
	wantEnd(t, client)
	waitFor(t, s.Server)
	s.wantNoneLost(t)
}

// fullServer is a server of whose connections the last one has no room for control
// records.
func fullServer(t *testing.T) (*fakeServer, *fullControl) {
	s := newFakeServer(t, serverConfig(), offloadAll, nil)
	inner := s.newKernel
	full := &fullControl{}
	full.on.Store(true)
	s.newKernel = func(tcp *net.TCPConn) kernel { full.kernel = inner(tcp); return full }
	return s, full
}

// A fullControl has no room for control records while it is on.
type fullControl struct {
	kernel
	on atomic.Bool
}

func (k *fullControl) sendControl(typ recordType, body []byte, wait bool) error {
	switch {
	case !k.on.Load():
		return k.kernel.sendControl(typ, body, wait)
	case wait:
		return os.ErrDeadlineExceeded
	}
	return errWouldBlock
}

// Before the offload too, a reader that answers a KeyUpdate doesn't hold Close up for
// longer than crypto/tls itself takes.
func TestCloseBehindReader(t *testing.T) {
	t.Parallel()
	s := newFakeServer(t, serverConfig(), onDemand, nil)
	conn, p, _ := s.connectPeer(t)
	_ = conn.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	wantError(t, fill(conn.raw.Write), os.ErrDeadlineExceeded)
	_ = conn.SetWriteDeadline(time.Time{})
	go func() { _, _ = conn.Read(make([]byte, 1)) }()
	p.keyUpdate(true)
	<-settled()
	closed := make(chan struct{})
	go func() { defer close(closed); _ = conn.Close() }()
	select {
	case <-closed:
	case <-time.After(closeTimeout + soon):
		t.Error("Close waits for ever")
	}
}

// A client that takes what was sent, however slowly, is not given up while a reader
// waits to answer it.
func TestDrainSeesProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lost := make(chan error, 1)
		s := &Server{options: Options{Drain: new(Drain), Lost: func(_ *Conn, err error) { lost <- err }}}
		raw, other := net.Pipe()
		defer other.Close()
		k := &fakeKernel{}
		c := &Conn{raw: raw, server: s, tap: &tap{Conn: raw}, key: keyRenewal{suite: &suites[0]}, kernel: k}
		c.out.Lock() // by the reader
		c.drainInBackground()
		for range 5 {
			time.Sleep(drainTimeout / 2)
			k.taken.Add(1000)
		}
		synctest.Wait()
		if len(lost) > 0 {
			t.Error("given up though the client makes progress:", <-lost)
		}
		wantError(t, <-lost, errStalled)
		c.out.Unlock()
	})
}

// The functions of the Options may use the connection in whatever way they like.
func TestCallbacksUseConnection(t *testing.T) {
	for name, use := range map[string]func(*Conn){
		"Close":           func(c *Conn) { _ = c.Close() },
		"CloseWrite":      func(c *Conn) { _ = c.CloseWrite() },
		"ConnectionState": func(c *Conn) { _ = c.ConnectionState() },
		"Write":           func(c *Conn) { _, _ = c.Write([]byte("x")) },
		"Handshake":       func(c *Conn) { _ = c.Handshake() },
		"SetDeadline":     func(c *Conn) { _ = c.SetDeadline(time.Time{}) },
	} {
		for _, mode := range []mode{onDemand, offloadAll} {
			t.Run(name, func(t *testing.T) {
				calls := make(map[string]int)
				used := func(what string) func(*Conn) {
					return func(c *Conn) { calls[what]++; use(c) }
				}
				s := newFakeServer(t, serverConfig(), mode, nil)
				s.support.Rekey = false
				s.keyLimit = 5
				s.options.Decided = func(c *Conn, d Decision) { used("Decided")(c) }
				s.options.Retired, s.options.Closed = used("Retired"), used("Closed")
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					clientEnd, serverEnd := tcpPair(t)
					conn := s.Conn(serverEnd)
					client := tls.Client(clientEnd, clientConfig())
					go func() { _, _ = io.Copy(io.Discard, client) }()
					conn.Offload()
					for range 10 {
						_, _ = conn.Write(testBody(1000))
					}
					_ = conn.Close()
				}()
				select {
				case <-ended:
				case <-time.After(soon):
					t.Fatal("somebody waits for somebody")
				}
				if calls["Decided"] != 1 || calls["Closed"] > 1 || calls["Retired"] > 1 {
					t.Errorf("calls %v", calls)
				}
			})
		}
	}
}

// What is called because of a KeyUpdate may read: crypto/tls's locks are free.
func TestReadInKeyUpdated(t *testing.T) {
	s := rekeyServer(t, true, nil)
	called := make(chan error, 1)
	s.options.KeyUpdated = func(c *Conn) {
		_, err := c.Read(make([]byte, 1))
		called <- err
	}
	conn, p, _ := s.connectPeer(t)
	go func() { _, _ = conn.Read(make([]byte, 1)) }()
	p.keyUpdate(true)
	p.write(recordApplicationData, []byte("data"))
	select {
	case err := <-called:
		if err != nil {
			t.Error("Read:", err)
		}
	case <-time.After(soon):
		t.Error("Read in KeyUpdated waits for ever")
	}
}

// The context of a connection gets to the handshake that Read begins, and a second
// caller's context counts too.
func TestHandshakeContext(t *testing.T) {
	type key struct{}
	config := serverConfig()
	var got any
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		got = hello.Context().Value(key{})
		return nil, nil
	}
	s := newFakeServer(t, config, onDemand, nil)
	clientEnd, serverEnd := tcpPair(t)
	conn := s.Conn(serverEnd)
	conn.SetContext(context.WithValue(context.Background(), key{}, "value"))
	client := tls.Client(clientEnd, clientConfig())
	go func() { _, _ = client.Write([]byte("x")) }()
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if got != "value" {
		t.Errorf("the context has %v", got)
	}

	_, serverEnd = tcpPair(t)
	conn = s.Conn(serverEnd)
	first := make(chan error, 1)
	go func() { first <- conn.Handshake() }() // the client is silent
	ctx, cancel := context.WithCancel(context.Background())
	second := make(chan error, 1)
	go func() { second <- conn.HandshakeContext(ctx) }()
	cancel()
	for _, ended := range []chan error{first, second} {
		select {
		case err := <-ended:
			if err == nil {
				t.Error("the handshake succeeded")
			}
		case <-time.After(soon):
			t.Error("the handshake goes on though a context is done")
		}
	}
}

// CloseWrite that races with the end of the handshake sends one close_notify.
func TestCloseWriteDuringHandshake(t *testing.T) {
	for range 50 {
		s := newFakeServer(t, serverConfig(), offloadAll, nil)
		clientEnd, serverEnd := tcpPair(t)
		conn := s.Conn(serverEnd)
		client := tls.Client(&recording{Conn: clientEnd}, clientConfig())
		done := make(chan struct{})
		go func() { defer close(done); _ = conn.Handshake() }()
		go func() {
			for conn.CloseWrite() != nil { // too early
			}
		}()
		if err := client.Handshake(); err != nil {
			t.Fatal(err)
		}
		wantEnd(t, client)
		<-done
		conn.Close()
		if rest, err := io.ReadAll(clientEnd); len(rest) > 0 {
			t.Fatalf("%d bytes follow close_notify, %v", len(rest), err)
		}
	}
}

func TestNilConfig(t *testing.T) {
	clientEnd, serverEnd := tcpPair(t)
	conn := NewServer(nil, nil).Conn(serverEnd)
	go func() { _ = tls.Client(clientEnd, clientConfig()).Handshake() }()
	if err := conn.Handshake(); err == nil || errors.Is(err, net.ErrClosed) {
		t.Errorf("Handshake without a certificate: %v", err)
	}
	conn.Close()
}

// A file that has become shorter than what is to prove the number has an end, which
// is no error.
func TestShortProof(t *testing.T) {
	s := newFakeServer(t, serverConfig(), onDemand, nil)
	conn, client, _ := s.connect(t, clientConfig())
	body := testBody(proofLen - 1)
	wait := receiving(t, client, body)
	if n, err := conn.writeProof(testFile(t, body)); n != proofLen-1 || err != nil {
		t.Errorf("writeProof = %d, %v", n, err)
	}
	wait()
}
