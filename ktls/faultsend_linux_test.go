package ktls

import (
	"crypto/tls"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

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
// last piece. No byte comes twice or is wrong. After EAGAIN there is room, so the kernel
// does not tell when to try again, as when the TLS layer gets no memory for a record.
func TestKernelSendFails(t *testing.T) {
	testutil.RequireKernelTLS(t, Probe)
	keepsNothing(t)
	const pieces, piece = 4, 20_000
	body := testutil.Body(pieces * piece)
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
					wantState(t, conn, Offloaded)
					sent := make(chan error, 1)
					go func() {
						defer close(sent)
						file := testutil.OpenFile(t, body)
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
								testutil.WantError(t, again, err)
								sent <- err
								break
							}
						}
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
						testutil.WantError(t, <-sent, errno)
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
		results.Fault(t, kernelFailures, f.what+" at the first call, in the middle or in the last piece", bySeam, f.result)
	}
}

// An alert that can't be sent ends the connection without it.
func TestKernelAlertFails(t *testing.T) {
	testutil.RequireKernelTLS(t, Probe)
	keepsNothing(t)
	for _, errno := range []unix.Errno{unix.EIO, unix.ENOMEM, unix.EPIPE, unix.EINVAL} {
		t.Run(unix.ErrnoName(errno), func(t *testing.T) {
			b := newBreakdown("sendmsg", errno)
			s := brokenServer(t, offloadAll, b)
			conn, p, _ := s.connectPeer(t)
			transfer(t, conn, p, testutil.Body(70_000))
			b.arm(0)
			p.garbage()
			if _, err := conn.Read(make([]byte, 1)); err == nil {
				t.Error("garbage was read")
			}
			_, err := conn.Write([]byte("x"))
			testutil.WantError(t, err, errno)
			if n, err := conn.SendFile(nil, filerange.Segment{File: testutil.OpenFile(t, testutil.Body(70_000)), Len: 70_000}); n != 0 || !errors.Is(err, errno) {
				t.Errorf("SendFile = %d, %v", n, err)
			}
			conn.Close()
			wantCut(t, p, nil)
			wantGone(t, s, conn)
			b.wantDone(t)
		})
	}
	results.Fault(t, kernelFailures, "sendmsg of an alert fails (EIO, ENOMEM, EPIPE, EINVAL)", bySeam,
		"no data follow; connection closed")
}

// Without a close_notify what the TLS layer holds is not sent: if it can't be
// sent, that is told.
func TestKernelCloseNotifyFails(t *testing.T) {
	testutil.RequireKernelTLS(t, Probe)
	keepsNothing(t)
	body := testutil.Body(70_000)
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
				testutil.WantError(t, s.lost[0], tt.errno)
			}
		})
	}
	results.Fault(t, kernelFailures, "sendmsg of close_notify fails (EIO, ENOMEM, EINVAL)", bySeam,
		"connection closed, and counted as lost; the client sees no orderly end")
	results.Fault(t, kernelFailures, "sendmsg of close_notify fails (EAGAIN, EINTR)", bySeam,
		"tried again in the background; the client gets everything, and close_notify")

	b := newBreakdown("sendmsg", unix.EIO)
	s := brokenServer(t, offloadAll, b)
	conn, p, _ := s.connectPeer(t)
	b.arm(0)
	testutil.WantError(t, conn.CloseWrite(), unix.EIO)
	_, err := conn.Write(body)
	testutil.WantError(t, err, unix.EIO)
	conn.Close()
	wantCut(t, p, nil)
	wantGone(t, s, conn)
}
