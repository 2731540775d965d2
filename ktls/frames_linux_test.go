package ktls

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// Frames arrive whole through a socket that takes a few bytes at a time, and the kernel
// makes a record of each. If sendfile(2) is refused the rest can be written; after
// another failure the connection is cut off.
func TestKernelSendFrames(t *testing.T) {
	testutil.RequireKernelTLS(t, Probe)
	keepsNothing(t)
	const n, count, turns = 16_368, 4, 8
	body := testutil.Body(turns * n * count)
	for _, tt := range []struct {
		call  string
		errno unix.Errno
		whole bool
	}{
		{"", 0, true}, {"sendfile", unix.EINVAL, true}, {"sendfile", unix.EIO, true}, // for a file that can be read
		{"sendfile", unix.EPIPE, false}, {"sendmsg", unix.EIO, false}, {"sendmsg", unix.ENOMEM, false},
		{"sendmsg", unix.EINVAL, false}, {"sendmsg", unix.EPERM, false},
	} {
		for _, skip := range []int32{0, 3} {
			t.Run(fmt.Sprintf("%s/%s/%d", tt.call, unix.ErrnoName(tt.errno), skip), func(t *testing.T) {
				b := newBreakdown(tt.call, tt.errno)
				s := brokenServer(t, offloadAll, b)
				clientEnd, serverEnd := smallPair(t, 4096)
				conn, p, _ := s.connectPeerOver(t, 0x0304, clientEnd, serverEnd)
				wantState(t, conn, Offloaded)
				before := conn.kernel.records()
				failed := make(chan error, 1)
				go func() {
					defer close(failed)
					defer conn.Close()
					f := testutil.OpenFile(t, body)
					for i := range turns {
						if i == 2 && tt.call != "" {
							b.arm(skip)
						}
						at := int64(i) * n * count
						sent, err := conn.SendFrames([]byte("header"), filerange.Segment{File: f, Offset: at, Len: n * count}, n)
						for errors.Is(err, ErrNoSendfile) {
							rest := n - sent%n
							if _, err = conn.Write(body[at+sent:][:rest]); err == nil {
								if sent += rest; sent < n*count {
									var m int64
									m, err = conn.SendFrames([]byte("header"), filerange.Segment{File: f, Offset: at + sent, Len: (n*count - sent) / n * n}, n)
									sent += m
								}
							}
						}
						if err != nil {
							failed <- err
							return
						}
					}
					if got := conn.kernel.records() - before; tt.call == "" && got != turns*count {
						t.Errorf("%d records, want %d", got, turns*count)
					}
				}()
				want := framed("header", body, n, turns*count)
				if tt.whole {
					receiving(t, p, want)()
					wantEnd(t, p)
				} else {
					wantCut(t, p, want)
					testutil.WantError(t, <-failed, tt.errno)
				}
				for err := range failed {
					t.Error(err)
				}
				if tt.call != "" {
					b.wantDone(t)
				}
			})
		}
	}
}
