package ktls

import (
	"crypto/tls"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/internal/pagecache"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A slowFile is on a disk that takes its time.
type slowFile struct {
	*os.File
	quick   atomic.Int32 // uses of its descriptor that don't wait
	begun   chan struct{}
	release <-chan struct{}
}

// newSlowFile returns one that waits from the beginning, or if late is set, in
// sendfile(2), because its pages have left memory meanwhile.
func newSlowFile(t *testing.T, late bool, release <-chan struct{}) *slowFile {
	t.Helper()
	const never = 1000
	part := filerange.Segment{Len: slowLen}
	f := &slowFile{File: testutil.OpenFile(t, testutil.Body(slowLen)), begun: make(chan struct{}), release: release}
	f.quick.Store(never)
	if part.File = f; late {
		var pages pagecache.Window
		if !pages.Ready(part) {
			testutil.Must(t, pages.Load(part, patient{}.wait))
		}
	}
	f.quick.Store(never - f.quick.Load())
	return f
}

const slowLen = 100_000

func (f *slowFile) SyscallConn() (syscall.RawConn, error) {
	raw, err := f.File.SyscallConn()
	return slowRawConn{raw, f}, err
}

type slowRawConn struct {
	syscall.RawConn
	f *slowFile
}

func (r slowRawConn) Control(f func(uintptr)) error {
	if left := r.f.quick.Add(-1); left < 0 {
		if left == -1 {
			close(r.f.begun)
		}
		<-r.f.release
	}
	return r.RawConn.Control(f)
}

// plainOffloaded returns a connection that sends as an offloaded one does, by the
// same system calls, but without TLS.
func plainOffloaded(t *testing.T) *Conn {
	t.Helper()
	s := newFakeServer(t, serverConfig(), offloadAll, nil)
	s.newKernel = func(tcp *net.TCPConn) kernel { return plainSocket{newSocket(tcp)} }
	conn, _, _ := s.connect(t, clientConfig())
	wantState(t, conn, Offloaded)
	return conn
}

// brimful returns such a connection that takes not a byte more.
func brimful(t *testing.T) *Conn {
	t.Helper()
	s := newFakeServer(t, serverConfig(), offloadAll, nil)
	s.newKernel = func(tcp *net.TCPConn) kernel { return plainSocket{newSocket(tcp)} }
	clientEnd, serverEnd := smallPair(t, 4096)
	conn, client := s.Conn(serverEnd), tls.Client(clientEnd, clientConfig())
	handshake(t, conn, client)
	s.writeFirst(t, conn, client)
	// What is on its way makes room again for a while.
	for full := 0; full < 5; {
		_ = conn.raw.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		n, _ := conn.raw.Write(testutil.Body(1000))
		if full++; n > 0 {
			full = 0
		}
	}
	_ = conn.raw.SetWriteDeadline(time.Time{})
	return conn
}

// sending returns a call of SendFile.
func sending(conn *Conn, f filerange.File, n int64) func() error {
	return func() error { _, err := conn.SendFile(nil, filerange.Segment{File: f, Len: n}); return err }
}

var socketCalls = []blockedCall{
	{name: "Write at a full socket",
		begin: func(t *testing.T) (net.Conn, func() error, <-chan struct{}) {
			conn := plainOffloaded(t)
			return conn, func() error { return fill(conn.Write) }, settled()
		}},
	{name: "SendFile at a full socket",
		begin: func(t *testing.T) (net.Conn, func() error, <-chan struct{}) {
			conn := brimful(t)
			return conn, sending(conn, testutil.OpenFile(t, testutil.Body(3<<20)), 3<<20), settled()
		}},
	{name: "SendFrames at a full socket",
		begin: func(t *testing.T) (net.Conn, func() error, <-chan struct{}) {
			conn := brimful(t)
			f := testutil.OpenFile(t, testutil.Body(3<<20))
			return conn, func() error {
				_, err := conn.SendFrames([]byte("header"), filerange.Segment{File: f, Len: 16_000 * 190}, 16_000)
				return err
			}, settled()
		}},
	{name: "CloseWrite at a full socket",
		begin: func(t *testing.T) (net.Conn, func() error, <-chan struct{}) {
			conn := brimful(t)
			return conn, conn.CloseWrite, settled()
		}},
	{name: "SendFile at a slow disk", ignoresClose: true, ignoresDeadline: true, begin: atSlowDisk(false)},
	{name: "sendfile at a slow disk", ignoresClose: true, ignoresDeadline: true, begin: atSlowDisk(true)},
	{name: "SendFile without a place",
		begin: func(t *testing.T) (net.Conn, func() error, <-chan struct{}) {
			conn := plainOffloaded(t)
			l := newSendfileLimiter(func() int { return 0 })
			conn.kernel.(plainSocket).kernel.(*socket).call().file.place.limiter = l
			waits := make(chan struct{})
			go func() {
				defer close(waits)
				for {
					l.mu.Lock()
					n := len(l.waiting)
					l.mu.Unlock()
					if n > 0 {
						return
					}
					time.Sleep(time.Millisecond)
				}
			}()
			t.Cleanup(func() {
				l.mu.Lock()
				defer l.mu.Unlock()
				if len(l.holders) != 0 || len(l.waiting) != 0 {
					t.Errorf("%d places are taken, %d wait; want none", len(l.holders), len(l.waiting))
				}
			})
			return conn, sending(conn, testutil.OpenFile(t, testutil.Body(1<<20)), 1<<20), waits
		}},
}

func atSlowDisk(late bool) func(*testing.T) (net.Conn, func() error, <-chan struct{}) {
	return func(t *testing.T) (net.Conn, func() error, <-chan struct{}) {
		conn := plainOffloaded(t)
		release := make(chan struct{})
		t.Cleanup(func() { close(release) })
		f := newSlowFile(t, late, release)
		return conn, sending(conn, f, slowLen), f.begun
	}
}

// The same for what the system calls of an offloaded connection wait for.
func TestInterruptSocket(t *testing.T) { testInterrupt(t, socketCalls) }

// CloseWrite gives up by itself when the client doesn't read, as in crypto/tls.
func TestCloseWriteBound(t *testing.T) {
	t.Parallel()
	conn := brimful(t)
	result := make(chan error, 1)
	go func() { result <- conn.CloseWrite() }()
	select {
	case err := <-result:
		testutil.WantError(t, err, os.ErrDeadlineExceeded)
	case <-time.After(closeTimeout + 4*soon):
		t.Error("CloseWrite waits for ever")
	}
	conn.Close()
}

// While a file's disk is slow, Close lets the client see the end.
func TestCloseAtSlowDisk(t *testing.T) {
	for name, late := range map[string]bool{"before sendfile": false, "in sendfile": true} {
		t.Run(name, func(t *testing.T) { testCloseAtSlowDisk(t, late) })
	}
}

func testCloseAtSlowDisk(t *testing.T, late bool) {
	s := newFakeServer(t, serverConfig(), offloadAll, nil)
	s.newKernel = func(tcp *net.TCPConn) kernel { return plainSocket{newSocket(tcp)} }
	closed := make(chan struct{})
	s.options.Closed = func(*Conn) { close(closed) }
	conn, client, _ := s.connect(t, clientConfig())
	release := make(chan struct{})
	f := newSlowFile(t, late, release)
	sent := make(chan error, 1)
	go func() { sent <- sending(conn, f, slowLen)() }()
	<-f.begun
	if err := conn.Close(); err != nil {
		t.Error("Close:", err)
	}
	wantZeroed(t, conn)
	if n, err := client.NetConn().Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("the client reads %d bytes, %v", n, err)
	}
	close(release)
	if err := <-sent; err == nil {
		t.Error("the file was sent")
	}
	select {
	case <-closed:
	case <-time.After(soon):
		t.Error("the socket stays open")
	}
}
