package ktls

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
)

// fault adds a row to docs/testing.md: what the test has produced and how, and
// the result, which it has asserted.
func fault(t testing.TB, kind, what, how, result string) {
	t.Helper()
	if !t.Failed() {
		t.Logf("fault: %s", strings.Join([]string{kind, what, how, result}, "\t"))
	}
}

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
	wantError(t, conn.raw.SetDeadline(time.Time{}), net.ErrClosed)
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
		deadline := time.Now().Add(testTimeout)
		for descriptors() > before || currentTx(t) > open {
			if time.Now().After(deadline) {
				t.Errorf("%d descriptors, before %d; %d connections in the kernel, before %d",
					descriptors(), before, currentTx(t), open)
				return
			}
			time.Sleep(time.Millisecond)
		}
	})
}

// A connection that the kernel refuses to take works in user space.
func TestKernelInstallFails(t *testing.T) {
	requireKernelTLS(t)
	keepsNothing(t)
	for _, step := range []struct {
		call   string
		errnos []unix.Errno
	}{
		{"TCP_ULP", []unix.Errno{unix.ENOENT, unix.ENOPROTOOPT, unix.EBUSY, unix.ENOMEM, unix.EINVAL, unix.EPERM}},
		{"TCP_INFO", []unix.Errno{unix.ENOMEM, unix.EINVAL}},
		{"TLS_TX", []unix.Errno{unix.ENOENT, unix.ENOPROTOOPT, unix.EBUSY, unix.ENOMEM, unix.EINVAL, unix.EPERM}},
	} {
		for i, errno := range step.errnos {
			// Each in one of the ways to get there.
			tt := []struct {
				version uint16
				mode    mode
			}{{tls.VersionTLS13, onDemand}, {tls.VersionTLS13, offloadAll}, {tls.VersionTLS12, onDemand}, {tls.VersionTLS12, offloadAll}}[i%4]
			t.Run(fmt.Sprintf("%s/%s/%s/%v", step.call, unix.ErrnoName(errno), tls.VersionName(tt.version), tt.mode), func(t *testing.T) {
				b := newBreakdown(step.call, errno)
				b.arm(0)
				s := brokenServer(t, tt.mode, b)
				before := txSockets(t)
				config := clientConfig()
				config.MaxVersion = tt.version
				conn, client, _ := s.connect(t, config)
				conn.Offload()
				transfer(t, conn, client, testBody(70_000))
				wantReason(t, conn, KernelRefused)
				transferFrom(t, conn, client, testFile(t, testBody(70_001)), testBody(70_001))
				transferBack(t, conn, client, testBody(70_002))
				s.end(t, conn, client)
				wantGone(t, s, conn)
				b.wantDone(t)
				wantTxSockets(t, before, 0)
				s.wantDecidedBy(t, errno)
			})
		}
	}
	for _, step := range []string{"TCP_ULP", "TLS_TX"} {
		fault(t, kernelFailures, "setsockopt of "+step+" fails (ENOENT, ENOPROTOOPT, EBUSY, ENOMEM, EINVAL, EPERM)", bySeam,
			"stays in user space, reason `kernel_refused`; bodies whole")
	}
	fault(t, kernelFailures, "getsockopt of TCP_INFO fails before the switch (ENOMEM, EINVAL)", bySeam,
		"stays in user space, reason `kernel_refused`; bodies whole")
}

// A kernel that can replace keys refuses it for one connection, as with a
// network card that encrypts, or for want of memory.
func TestKernelRekeyRefused(t *testing.T) {
	requireKernelTLS(t)
	keepsNothing(t)
	for _, errno := range []unix.Errno{unix.EBUSY, unix.ENOMEM, unix.EINVAL, unix.EOPNOTSUPP} {
		t.Run(unix.ErrnoName(errno), func(t *testing.T) {
			b := newBreakdown("TLS_TX", errno)
			b.arm(1)
			s := brokenServer(t, offloadAll, b)
			conn, p, _ := s.connectPeer(t)
			wantReason(t, conn, Offloaded)
			if s.support.Rekey {
				b.wantDone(t)
			}
			transfer(t, conn, p, testBody(70_000))
			p.keyUpdate(true)
			p.write(recordApplicationData, []byte("request"))
			if _, err := io.ReadFull(conn, make([]byte, 7)); err != nil {
				t.Error("Read:", err)
			}
			transferFrom(t, conn, p, testFile(t, testBody(70_001)), testBody(70_001))
			if !conn.Retired() || p.updates > 0 {
				t.Errorf("retired: %v, %d KeyUpdates", conn.Retired(), p.updates)
			}
			s.end(t, conn, p)
			wantGone(t, s, conn)
		})
	}
	fault(t, kernelFailures, "the second setsockopt of TLS_TX fails (EBUSY, ENOMEM, EINVAL, EOPNOTSUPP)", bySeam,
		"offloaded; a KeyUpdate of the client retires the connection after its response")
}

// If the key can't be replaced after all, no record may follow the KeyUpdate.
func TestKernelRekeyFails(t *testing.T) {
	if !requireKernelTLS(t).Rekey {
		t.Skip("needs a kernel that can replace keys (6.14)")
	}
	keepsNothing(t)
	for _, call := range []string{"sendmsg", "TLS_TX"} {
		for _, errno := range []unix.Errno{unix.EBUSY, unix.ENOMEM, unix.EINVAL} {
			t.Run(call+"/"+unix.ErrnoName(errno), func(t *testing.T) {
				b := newBreakdown(call, errno)
				s := brokenServer(t, offloadAll, b)
				conn, p, _ := s.connectPeer(t)
				body := testBody(70_000)
				transfer(t, conn, p, body)
				b.arm(0)
				p.keyUpdate(true)
				p.write(recordApplicationData, []byte("request"))
				if _, err := io.ReadFull(conn, make([]byte, 7)); err != nil {
					t.Error("Read:", err)
				}
				sent, err := conn.ReadFrom(testFile(t, body))
				if sent != 0 {
					t.Errorf("%d bytes were sent", sent)
				}
				wantError(t, err, errno)
				_, err = conn.Write(body)
				wantError(t, err, errno)
				conn.Close()
				wantCut(t, p, nil)
				wantGone(t, s, conn)
				b.wantDone(t)
			})
		}
	}
	fault(t, kernelFailures, "a KeyUpdate can't be sent, or its key not be set (EBUSY, ENOMEM, EINVAL)", bySeam,
		"connection closed before another byte; the client sees it")
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
		sameBody(t, got, body)
	}
}

// What becomes of a transfer when a call fails that sends.
var sendFailures = []struct {
	call   string
	errnos []unix.Errno
	whole  bool // the transfer goes on
	what   string
	result string
}{
	{"sendfile", []unix.Errno{unix.EAGAIN, unix.EINTR}, true,
		"sendfile fails (EAGAIN, EINTR)", "tried again; body whole"},
	{"sendfile", []unix.Errno{unix.EINVAL, unix.ENOSYS, unix.EOPNOTSUPP, unix.EPERM}, true,
		"sendfile is not possible or not allowed (EINVAL, ENOSYS, EOPNOTSUPP, EPERM)", "the rest of the file is copied; body whole"},
	{"sendfile", []unix.Errno{unix.EIO, unix.ENOMEM}, true,
		"sendfile fails, but the file can be read (EIO, ENOMEM)", "the rest of the file is copied; body whole"},
	{"sendfile", []unix.Errno{unix.EPIPE, unix.ECONNRESET, unix.EOVERFLOW, unix.ESPIPE}, false,
		"sendfile fails (EPIPE, ECONNRESET, EOVERFLOW, ESPIPE)", "connection closed; the client sees that the body is not whole"},
	{"sendmsg", []unix.Errno{unix.EAGAIN, unix.EINTR}, true,
		"sendmsg of data fails (EAGAIN, EINTR)", "tried again; body whole"},
	{"sendmsg", []unix.Errno{unix.EIO, unix.ENOMEM, unix.EPIPE, unix.ECONNRESET, unix.ENOBUFS}, false,
		"sendmsg of data fails (EIO, ENOMEM, EPIPE, ECONNRESET, ENOBUFS)", "connection closed; the client sees that the body is not whole"},
}

// A call that sends fails at the beginning, between pieces, within one, and in the
// last piece. No byte comes twice or is wrong.
func TestKernelSendFails(t *testing.T) {
	requireKernelTLS(t)
	keepsNothing(t)
	const pieces, piece = 4, 20_000
	body := testBody(pieces * piece)
	for _, f := range sendFailures {
		for _, errno := range f.errnos {
			for _, at := range []struct {
				name  string
				piece int
				skip  int32
			}{
				{"first", 0, 0}, {"within", 0, 1}, {"middle", 2, 0}, {"last", pieces - 1, 0},
			} {
				t.Run(f.call+"/"+unix.ErrnoName(errno)+"/"+at.name, func(t *testing.T) {
					b := newBreakdown(f.call, errno)
					s := brokenServer(t, offloadAll, b)
					clientEnd, serverEnd := smallPair(t, 4096)
					conn, p, _ := s.connectPeerOver(t, tls.VersionTLS13, clientEnd, serverEnd)
					wantReason(t, conn, Offloaded)
					stop := p.wake(t, conn)
					sent := make(chan error, 1)
					go func() {
						defer close(sent)
						file := testFile(t, body)
						for i := range pieces {
							if i == at.piece {
								b.arm(at.skip)
							}
							var n int64
							err := ErrNoSendfile
							if f.call == "sendfile" {
								n, err = conn.SendFile(nil, filerange.Segment{File: file, Offset: int64(i * piece), Len: piece})
							}
							if errors.Is(err, ErrNoSendfile) {
								_, err = conn.Write(body[i*piece:][n:piece])
							}
							if err != nil {
								_, again := conn.Write([]byte("x"))
								wantError(t, again, err)
								sent <- err
								break
							}
						}
						stop()
						conn.Close()
					}()
					// While nobody reads, a piece takes several calls.
					for end := time.Now().Add(testTimeout); at.skip > 0 && !b.done.Load() && time.Now().Before(end); {
						time.Sleep(time.Millisecond)
					}
					if f.whole {
						receiving(t, p, body)()
						wantEnd(t, p)
					} else {
						wantCut(t, p, body)
						wantError(t, <-sent, errno)
					}
					for err := range sent {
						t.Error("sending:", err)
					}
					wantGone(t, s, conn)
					b.wantDone(t)
					s.wantNoneLost(t) // it was sent, or whoever sent knows
				})
			}
		}
		fault(t, kernelFailures, f.what+" at the first call, in the middle or in the last piece", bySeam, f.result)
	}
}

// wake has events wake the server's poller, which waits for one after an EAGAIN
// that the kernel has not meant. It returns a function that ends that.
func (p *peer) wake(t testing.TB, conn *Conn) (stop func()) {
	t.Helper()
	end, ended := make(chan struct{}), make(chan struct{})
	go func() { _, _ = io.Copy(io.Discard, conn) }()
	go func() {
		defer close(ended)
		for {
			select {
			case <-end:
				return
			case <-time.After(2 * time.Millisecond):
				p.write(recordApplicationData, []byte("wake up"))
			}
		}
	}()
	return func() { close(end); <-ended }
}

// An alert that can't be sent ends the connection without it.
func TestKernelAlertFails(t *testing.T) {
	requireKernelTLS(t)
	keepsNothing(t)
	for _, errno := range []unix.Errno{unix.EIO, unix.ENOMEM, unix.EPIPE, unix.EINVAL} {
		t.Run(unix.ErrnoName(errno), func(t *testing.T) {
			b := newBreakdown("sendmsg", errno)
			s := brokenServer(t, offloadAll, b)
			conn, p, _ := s.connectPeer(t)
			transfer(t, conn, p, testBody(70_000))
			b.arm(0)
			p.garbage()
			if _, err := conn.Read(make([]byte, 1)); err == nil {
				t.Error("garbage was read")
			}
			_, err := conn.Write([]byte("x"))
			wantError(t, err, errno)
			if n, err := conn.SendFile(nil, filerange.Segment{File: testFile(t, testBody(70_000)), Len: 70_000}); n != 0 || !errors.Is(err, errno) {
				t.Errorf("SendFile = %d, %v", n, err)
			}
			conn.Close()
			wantCut(t, p, nil)
			wantGone(t, s, conn)
			b.wantDone(t)
		})
	}
	fault(t, kernelFailures, "sendmsg of an alert fails (EIO, ENOMEM, EPIPE, EINVAL)", bySeam,
		"no data follow; connection closed")
}

// Without a close_notify what the TLS layer holds is not sent: if it can't be
// sent, that is told.
func TestKernelCloseNotifyFails(t *testing.T) {
	requireKernelTLS(t)
	keepsNothing(t)
	body := testBody(70_000)
	for _, tt := range []struct {
		errno       unix.Errno
		whole, lost bool
	}{
		{unix.EAGAIN, true, false}, {unix.EINTR, true, false},
		{unix.EIO, false, true}, {unix.ENOMEM, false, true}, {unix.EINVAL, false, true},
		{unix.EPIPE, false, false}, {unix.ECONNRESET, false, false}, // the client has gone
	} {
		t.Run(unix.ErrnoName(tt.errno), func(t *testing.T) {
			b := newBreakdown("sendmsg", tt.errno)
			s := brokenServer(t, offloadAll, b)
			conn, p, _ := s.connectPeer(t)
			transfer(t, conn, p, body)
			if _, err := conn.Write(body); err != nil {
				t.Fatal(err)
			}
			b.arm(0)
			if err := conn.Close(); err != nil {
				t.Error("Close:", err)
			}
			if tt.whole {
				receiving(t, p, body)()
				wantEnd(t, p)
			} else {
				wantCut(t, p, body)
			}
			wantGone(t, s, conn)
			b.wantDone(t)
			switch {
			case !tt.lost:
				s.wantNoneLost(t)
			case len(s.lost) != 1:
				t.Errorf("lost: %v, want one", s.lost)
			default:
				wantError(t, s.lost[0], tt.errno)
			}
		})
	}
	fault(t, kernelFailures, "sendmsg of close_notify fails (EIO, ENOMEM, EINVAL)", bySeam,
		"connection closed, and counted as lost; the client sees no orderly end")
	fault(t, kernelFailures, "sendmsg of close_notify fails (EAGAIN, EINTR)", bySeam,
		"tried again in the background; the client gets everything, and close_notify")

	b := newBreakdown("sendmsg", unix.EIO)
	s := brokenServer(t, offloadAll, b)
	conn, p, _ := s.connectPeer(t)
	b.arm(0)
	wantError(t, conn.CloseWrite(), unix.EIO)
	_, err := conn.Write(body)
	wantError(t, err, unix.EIO)
	conn.Close()
	wantCut(t, p, nil)
	wantGone(t, s, conn)
}

// What a refusal means when the machine is looked at, and what is not the
// kernel's last word.
func TestProbeFails(t *testing.T) {
	for _, tt := range []struct {
		call         string
		errno        unix.Errno
		unsupported  bool
		cipherOnly   bool // one is missing, and the others work
		missingModul bool
	}{
		{call: "TCP_ULP", errno: unix.ENOENT, unsupported: true, missingModul: true},
		{call: "TCP_ULP", errno: unix.ENOPROTOOPT, unsupported: true, missingModul: true},
		{call: "TCP_ULP", errno: unix.EPERM, unsupported: true, missingModul: true},
		{call: "TCP_ULP", errno: unix.ENOMEM},
		{call: "TLS_TX", errno: unix.ENOENT, cipherOnly: true},
		{call: "TLS_TX", errno: unix.EINVAL, cipherOnly: true},
		{call: "TLS_TX", errno: unix.ENOMEM},
	} {
		t.Run(tt.call+"/"+unix.ErrnoName(tt.errno), func(t *testing.T) {
			if tt.call != "TCP_ULP" {
				requireKernelTLS(t)
			}
			b := newBreakdown(tt.call, tt.errno)
			b.arm(0)
			support, err := probeSuites(func(tcp *net.TCPConn) kernel {
				k := newSocket(tcp).(*socket)
				k.fault = b.fault
				return k
			})
			b.wantDone(t)
			if tt.cipherOnly {
				if err != nil || len(support.Ciphers()) < 2 {
					t.Errorf("%v, %v; want that the other ciphers work", support, err)
				}
				if support.known&1 != 0 {
					t.Error("the cipher that the kernel has refused is listed")
				}
				return
			}
			wantError(t, err, tt.errno)
			if support.Any() || errors.Is(err, errors.ErrUnsupported) != tt.unsupported || errors.Is(err, errNoULP) != tt.missingModul {
				t.Errorf("%v, %v", support, err)
			}
		})
	}
}

// A kernel that does not confirm the TLS layer has no key yet, so the connection works
// in user space. After one that does not confirm the key it ends, because it may be
// encrypted or not, and that kernel gets no other.
func TestKernelConfirmFails(t *testing.T) {
	requireKernelTLS(t)
	keepsNothing(t)
	for _, errno := range []unix.Errno{unix.EPERM, unix.EINVAL, unix.ENOMEM} {
		for _, tt := range []struct {
			call   string
			reason State
		}{{"get TCP_ULP", KernelRefused}, {"get TLS_TX", KernelUntrusted}} {
			t.Run(tt.call+"/"+unix.ErrnoName(errno), func(t *testing.T) {
				b := newBreakdown(tt.call, errno)
				b.arm(0)
				s := brokenServer(t, onDemand, b)
				conn, p, _ := s.connectPeer(t)
				conn.Offload()
				transfer(t, conn, p, testBody(70_000))
				wantReason(t, conn, tt.reason)
				s.wantDecidedBy(t, errno)
				if tt.reason == KernelRefused {
					transferFrom(t, conn, p, testFile(t, testBody(70_001)), testBody(70_001))
					s.end(t, conn, p)
				} else {
					if _, err := conn.Write(testBody(70_000)); err == nil {
						t.Error("Write succeeded")
					}
					if n, err := p.Read(make([]byte, 1)); n > 0 || err == nil {
						t.Errorf("the client reads %d bytes, %v", n, err)
					}
					conn.Close()
				}
				b.wantDone(t)
				wantGone(t, s, conn)
			})
		}
	}
	fault(t, kernelFailures, "getsockopt of TCP_ULP fails before the switch (EPERM, EINVAL, ENOMEM)", bySeam,
		"stays in user space, reason `kernel_refused`; bodies whole")
	fault(t, kernelFailures, "getsockopt of TLS_TX fails after the switch (EPERM, EINVAL, ENOMEM)", bySeam,
		"connection closed, reason `kernel_untrusted`; no other is offered until the next reload")
}

// wantDecidedBy checks that one connection was decided on, for an error.
func (s *fakeServer) wantDecidedBy(t testing.TB, err error) {
	t.Helper()
	if len(s.decisions) != 1 || !errors.Is(s.decisions[0].err, err) {
		t.Errorf("decisions %v, want one with %v", s.decisions, err)
	}
}
