package ktls

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

const (
	kernelFailures = "Kernel failures"
	bySeam         = "one system call returns the error instead of being made"
)

// A breakdown has one system call fail.
type breakdown struct {
	call string
	err  error

	skip atomic.Int32 // calls that work before it; negative: all
	done atomic.Bool
}

func newBreakdown(call string, err error) *breakdown {
	b := &breakdown{call: call, err: err}
	b.skip.Store(-1)
	return b
}

// arm has the call fail that follows that many others of its name.
func (b *breakdown) arm(skip int32) { b.skip.Store(skip) }

func (b *breakdown) fault(call string) error {
	if call != b.call || b.skip.Load() < 0 || b.skip.Add(-1) >= 0 {
		return nil
	}
	b.done.Store(true)
	return b.err
}

func (b *breakdown) wantDone(t testing.TB) {
	t.Helper()
	if !b.done.Load() {
		t.Errorf("no call of %s has failed", b.call)
	}
}

// brokenServer is a server of whose sockets a system call fails.
func brokenServer(t testing.TB, mode mode, b *breakdown) *fakeServer {
	t.Helper()
	s := realServer(t, mode)
	s.newKernel = func(tcp *net.TCPConn) kernel {
		k := newSocket(tcp).(*socket)
		k.fault = b.fault
		return k
	}
	return s
}

// wantGone checks that a connection that was closed has left nothing behind:
// no secret, no descriptor, nobody who waits.
func wantGone(t testing.TB, s *fakeServer, conn *Conn) {
	t.Helper()
	waitFor(t, s.Server)
	wantZeroed(t, conn)
	testutil.WantError(t, conn.raw.SetDeadline(time.Time{}), net.ErrClosed)
}

// currentTx tells how many connections the kernel encrypts.
func currentTx(t testing.TB) uint64 {
	t.Helper()
	statistics, err := KernelStatistics()
	if err != nil {
		t.Fatal(err)
	}
	return statistics["TlsCurrTxSw"]
}

// keepsNothing checks at the end of the test that neither the process nor the
// kernel has more than at its beginning.
func keepsNothing(t testing.TB) {
	t.Helper()
	descriptors := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	before, open := descriptors(), currentTx(t)
	t.Cleanup(func() {
		testutil.EventuallyWithin(t, testTimeout, "nothing is left", func() error {
			if descriptors() > before || currentTx(t) > open {
				return fmt.Errorf("%d descriptors, before %d; %d connections in the kernel, before %d",
					descriptors(), before, currentTx(t), open)
			}
			return nil
		})
	})
}

// wantCut checks that a client has got a part of the body and knows that it is
// only a part.
func wantCut(t testing.TB, p *peer, body []byte) {
	t.Helper()
	got, err := io.ReadAll(p)
	if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the client's error after %d bytes: %v", len(got), err)
	}
	if !bytes.HasPrefix(body, got) {
		testutil.SameBody(t, got, body)
	}
}
