package ktls

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
)

func TestClose(t *testing.T) {
	conn, client, k := offloaded(t, nil)
	transfer(t, conn, client, testBody(70_000))
	secret := conn.tap.relay.Load().key.secret
	wantZero(t, "crypto info", k.lastInfo)
	// net/http leaves such deadlines behind; they are not about close_notify.
	if err := conn.SetWriteDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Error("Close:", err)
	}
	wantEnd(t, client)
	wantZero(t, "traffic secret", secret)
	wantZeroed(t, conn)
	wantError(t, conn.Close(), net.ErrClosed)
	_, err := conn.Write([]byte("x"))
	wantError(t, err, net.ErrClosed)
	_, err = conn.Read(make([]byte, 1))
	wantError(t, err, net.ErrClosed)
}

func TestCloseWrite(t *testing.T) {
	conn, client, k := offloaded(t, nil)
	transfer(t, conn, client, testBody(70_000))
	for range 2 {
		if err := conn.CloseWrite(); err != nil {
			t.Error("CloseWrite:", err)
		}
	}
	wantEnd(t, client)
	_, err := conn.Write([]byte("x"))
	wantError(t, err, errWriteShut)
	_, err = conn.SendFile(nil, filerange.Segment{File: testFile(t, testBody(10)), Len: 10})
	wantError(t, err, errWriteShut)
	// The other direction goes on.
	if _, err := client.Write([]byte("request")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 7)); err != nil {
		t.Error("Read:", err)
	}
	if err := conn.Close(); err != nil {
		t.Error("Close:", err)
	}
	if len(k.controls) != 1 || !bytes.Equal(k.controls[0].body, closeNotify[:]) {
		t.Errorf("control records %v, want one close_notify", k.controls)
	}
}

// CloseWrite before the switch means that there won't be one.
func TestCloseWriteBeforeSwitch(t *testing.T) {
	s := newFakeServer(t, serverConfig(), onDemand, nil)
	conn, client, k := s.connect(t, clientConfig())
	transfer(t, conn, client, testBody(70_000))
	if err := conn.CloseWrite(); err != nil {
		t.Error("CloseWrite:", err)
	}
	conn.Offload()
	if _, err := conn.Write([]byte("x")); err == nil {
		t.Error("Write after CloseWrite succeeded")
	}
	wantEnd(t, client)
	conn.Close()
	k.wantSent(t, 0, 0)
	s.wantDecided(t, conn, NotNeeded, nil)
}

// An error of a send is final: nobody knows what the peer has got.
func TestStickyError(t *testing.T) {
	conn, client, _ := offloaded(t, nil)
	done := make(chan struct{})
	go func() { _, _ = io.Copy(io.Discard, client); close(done) }()
	if err := conn.SetWriteDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	_, err := conn.Write(testBody(100))
	wantError(t, err, os.ErrDeadlineExceeded)
	if err := conn.SetWriteDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	_, err = conn.Write(testBody(100))
	wantError(t, err, os.ErrDeadlineExceeded)
	conn.Close()
	<-done
	wantZeroed(t, conn)
}

// Close interrupts a write that is blocked, and does not wait for it.
func TestCloseDuringWrite(t *testing.T) {
	conn, _, _ := offloaded(t, nil)
	result := make(chan error, 1)
	go func() {
		var err error
		for err == nil { // the client does not read
			_, err = conn.Write(testBody(1 << 20))
		}
		result <- err
	}()
	// The writer is blocked when the queue in the kernel doesn't grow.
	for conn.out.TryLock() {
		conn.out.Unlock()
		time.Sleep(time.Millisecond)
	}
	begin := time.Now()
	conn.Close()
	if err := <-result; err == nil {
		t.Error("the write succeeded")
	}
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("Close and the write took %v", d)
	}
	waitFor(t, conn.server)
}

// Data that the peer has not got yet outlive Close.
func TestCloseWithUnsentData(t *testing.T) {
	var unsent atomic.Int64
	unsent.Store(1000)
	s := newFakeServer(t, serverConfig(), offloadAll, func(k *fakeKernel) {
		k.full.Store(true)
		k.queued = func() (int, error) { return int(unsent.Load()), nil }
	})
	conn, client, k := s.connect(t, clientConfig())
	transfer(t, conn, client, testBody(70_000))
	reader := make(chan error, 1)
	go func() { _, err := conn.Read(make([]byte, 1)); reader <- err }()

	if err := conn.Close(); err != nil {
		t.Error("Close:", err)
	}
	wantError(t, <-reader, net.ErrClosed) // to its user it is closed
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	wantError(t, s.Wait(ctx), context.DeadlineExceeded)

	// There is room for close_notify, but the peer hasn't got everything.
	k.full.Store(false)
	wantEnd(t, client) // close_notify; the socket is open yet
	if secretsOf(conn)["secret"] == nil {
		t.Error("the connection was given up while data were unsent")
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Wait(context.Background()) }()
	unsent.Store(int64(conn.key.suite.alertLen()))
	if err := <-ended; err != nil {
		t.Error("Wait:", err)
	}
	wantZeroed(t, conn)
	if len(s.lost) > 0 {
		t.Errorf("lost: %v", s.lost)
	}
}

// An alert is as good an end as close_notify: Close waits for what precedes it.
func TestCloseAfterAlert(t *testing.T) {
	var unsent atomic.Int64
	unsent.Store(1000)
	s := newFakeServer(t, serverConfig(), offloadAll, func(k *fakeKernel) {
		k.queued = func() (int, error) { return int(unsent.Load()), nil }
	})
	conn, p, k := s.connectPeer(t)
	p.garbage()
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("garbage was read")
	}
	if err := conn.Close(); err != nil {
		t.Error("Close:", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	wantError(t, s.Wait(ctx), context.DeadlineExceeded)
	unsent.Store(0)
	waitFor(t, s.Server)
	if len(k.controls) != 1 || !bytes.Equal(k.controls[0].body, []byte{2, 20}) {
		t.Errorf("control records %v, want one bad_record_mac", k.controls)
	}
}

// Wait serves any number of waiters, while connections come and go.
func TestWaitConcurrently(t *testing.T) {
	var c Drain
	<-c.none()
	for range 100 {
		c.add(1)
		first, second := c.none(), c.none()
		go c.add(-1)
		<-first
		c.add(1)
		<-second
		c.add(-1)
	}
}

// stuck is a kernel whose peer has stopped reading, or has gone.
type stuck struct {
	kernel
	taken uint64 // grows with each look until then
	err   error
}

func (k *stuck) sendControl(recordType, []byte, bool) error { return errWouldBlock }

func (k *stuck) unsent() (int, error) { return 1000, k.err }

func (k *stuck) acked() (uint64, error) {
	if k.taken < 5 {
		k.taken++
		time.Sleep(drainTimeout / 2) // each is progress
	}
	return k.taken, k.err
}

// A peer that acknowledges nothing for drainTimeout is given up, and told.
func TestDrainGivesUp(t *testing.T) {
	gone := errors.New("gone")
	for _, tt := range []struct {
		name string
		err  error
		want error
		min  time.Duration
	}{
		{"stalled", nil, errStalled, 3 * drainTimeout},
		{"gone", gone, gone, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var lost error
				s := &Server{options: Options{Drain: new(Drain), Lost: func(_ *Conn, err error) { lost = err }}}
				raw, other := net.Pipe()
				defer other.Close()
				c := &Conn{raw: raw, server: s, tap: &tap{Conn: raw}, key: keyRenewal{suite: &suites[0]}, kernel: &stuck{err: tt.err}}
				begin := time.Now()
				c.drainInBackground()
				if err := s.Wait(context.Background()); err != nil {
					t.Error("Wait:", err)
				}
				wantError(t, lost, tt.want)
				if d := time.Since(begin); d < tt.min || d > tt.min+2*drainTimeout {
					t.Errorf("given up after %v", d)
				}
				if _, err := other.Read(make([]byte, 1)); err != io.EOF {
					t.Errorf("the connection is open: %v", err)
				}
			})
		})
	}
}

// A client that has ended its own direction gets everything.
func TestHalfClosed(t *testing.T) { testHalfClosed(t, fakeShapes) }

func testHalfClosed(t *testing.T, newServer newShapes) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, tcpToo := range []bool{false, true} {
			eachMode(t, fmt.Sprintf("%s/%v", tls.VersionName(version), tcpToo), func(t *testing.T, mode mode) {
				s := newServer(t, serverConfig(), mode)
				own := clientConfig()
				own.MaxVersion = version
				conn, client, k := s.connect(t, own)
				if _, err := client.Write([]byte("request")); err != nil {
					t.Fatal(err)
				}
				if err := client.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				if tcpToo {
					_ = client.NetConn().(*recording).Conn.(*net.TCPConn).CloseWrite()
				}
				if got, err := io.ReadAll(conn); string(got) != "request" || err != nil {
					t.Errorf("read %q, %v", got, err)
				}
				conn.Offload()
				transfer(t, conn, client, testBody(70_000))
				if tcpToo && mode == onDemand && k == nil {
					// Linux takes established connections only.
					wantReason(t, conn, Closing)
				} else {
					wantReason(t, conn, Offloaded)
				}
				transferFrom(t, conn, client, testFile(t, testBody(300_000)), testBody(300_000))
				s.end(t, conn, client)
			})
		}
	}
}
