package ktls

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// Close comes while another goroutine's Write is offloading the connection: Decided
// and Closed agree on what became of it.
func TestCloseDuringOffload(t *testing.T) {
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
	late := testutil.Body(32)
	conn.tap.counter.setSecret(late)
	wantZero(t, "late secret", late)
	wantZeroed(t, conn)
}

// Close comes while the reader sends the answer to a KeyUpdate to a client that is
// slow: what was accepted before is not cut, and close_notify follows.
func TestCloseWhileReaderSends(t *testing.T) {
	s, k := slowServer(t)
	conn, p, _ := s.connectPeer(t)
	transfer(t, conn, p, testutil.Body(70_000))
	reader := make(chan error, 1)
	go func() { _, err := conn.Read(make([]byte, 1)); reader <- err }()
	p.keyUpdate(true)
	<-k.waiting
	if err := conn.Close(); err != nil {
		t.Error("Close:", err)
	}
	testutil.WantError(t, <-reader, net.ErrClosed)
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
	transfer(t, conn, p, testutil.Body(70_000))
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
	body := testutil.Body(900_000)
	conn.lock() // until SendFile waits and the request for a key is there
	sent := make(chan error, 1)
	go func() {
		_, err := conn.SendFile(nil, filerange.Segment{File: testutil.OpenFile(t, body), Len: int64(len(body))})
		sent <- err
	}()
	p.keyUpdate(true)
	readBack(t, conn, p)
	conn.out.Unlock()
	conn.calls.Add(-1)
	<-k.waiting
	_ = conn.SetWriteDeadline(time.Unix(1, 0))
	testutil.WantError(t, <-sent, os.ErrDeadlineExceeded)
	conn.Close()
	got, err := io.ReadAll(p)
	if !errors.Is(err, io.ErrUnexpectedEOF) || !bytes.HasPrefix(body, got) {
		t.Errorf("the client gets %d bytes, %v; want a beginning and no orderly end", len(got), err)
	}
}

// CloseWrite that has timed out leaves close_notify to Close, which drains.
func TestCloseAfterCloseWrite(t *testing.T) {
	s, full := fullServer(t)
	conn, client, _ := s.connect(t, clientConfig())
	transfer(t, conn, client, testutil.Body(70_000))
	testutil.WantError(t, conn.CloseWrite(), os.ErrDeadlineExceeded)
	_, err := conn.Write([]byte("x"))
	testutil.WantError(t, err, errWriteShut)
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
	transfer(t, conn, client, testutil.Body(70_000))
	if err := conn.Close(); err != nil {
		t.Error("Close:", err)
	}
	_, err := conn.Write([]byte("x"))
	testutil.WantError(t, err, net.ErrClosed)
	_, err = conn.SendFile([]byte("x"), filerange.Segment{File: testutil.OpenFile(t, testutil.Body(10)), Len: 10})
	testutil.WantError(t, err, net.ErrClosed)
	testutil.WantError(t, conn.CloseWrite(), net.ErrClosed)
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
	testutil.WantError(t, fill(conn.raw.Write), os.ErrDeadlineExceeded)
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
