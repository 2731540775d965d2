package ktls

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A client that takes what was sent, however slowly, is not given up while a reader
// waits to answer it.
func TestDrainSeesProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lost := make(chan error, 1)
		s := &Server{options: Options{Drain: new(Drain), Lost: func(_ *Conn, err error) { lost <- err }}}
		raw, other := net.Pipe()
		defer other.Close()
		k := &fakeKernel{}
		c := &Conn{raw: raw, server: s, tap: &tap{Conn: raw}, renewal: keyRenewal{suite: &suites[0]}, kernel: k}
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
		testutil.WantError(t, <-lost, errStalled)
		c.out.Unlock()
	})
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
	transfer(t, conn, client, testutil.Body(70_000))
	reader := make(chan error, 1)
	go func() { _, err := conn.Read(make([]byte, 1)); reader <- err }()

	if err := conn.Close(); err != nil {
		t.Error("Close:", err)
	}
	testutil.WantError(t, <-reader, net.ErrClosed) // to its user it is closed
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	testutil.WantError(t, s.Wait(ctx), context.DeadlineExceeded)

	// There is room for close_notify, but the peer hasn't got everything.
	k.full.Store(false)
	wantEnd(t, client) // close_notify; the socket is open yet
	if secretsOf(conn)["relay's secret"] == nil {
		t.Error("the connection was given up while data were unsent")
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Wait(context.Background()) }()
	unsent.Store(int64(conn.renewal.suite.alertLen()))
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
	testutil.WantError(t, s.Wait(ctx), context.DeadlineExceeded)
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
				c := &Conn{raw: raw, server: s, tap: &tap{Conn: raw}, renewal: keyRenewal{suite: &suites[0]}, kernel: &stuck{err: tt.err}}
				begin := time.Now()
				c.drainInBackground()
				if err := s.Wait(context.Background()); err != nil {
					t.Error("Wait:", err)
				}
				testutil.WantError(t, lost, tt.want)
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
