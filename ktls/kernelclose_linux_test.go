package ktls

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// fillKernel sends until the kernel takes no more at once, and returns how much of the
// body it has taken.
func fillKernel(t testing.TB, conn *Conn, body []byte) (sent int) {
	t.Helper()
	for {
		_ = conn.raw.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		n, err := conn.kernel.send(body[sent:sent+maxPayload], false)
		sent += n
		if errors.Is(err, os.ErrDeadlineExceeded) {
			_ = conn.raw.SetWriteDeadline(time.Time{})
			return sent
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// What the kernel has accepted arrives, and close_notify behind it, though CloseWrite
// has given up for want of room, or a deadline has passed before an answer to a
// KeyUpdate could be sent.
func TestKernelCloseWhenFull(t *testing.T) {
	testutil.RequireKernelTLS(t, Probe)
	for _, sndbuf := range []int{0, 4096} {
		for _, tt := range []struct {
			name   string
			before func(*testing.T, *Conn, *peer)
		}{
			{"CloseWrite", func(t *testing.T, conn *Conn, _ *peer) {
				testutil.WantError(t, conn.CloseWrite(), os.ErrDeadlineExceeded)
			}},
			{"KeyUpdate", func(t *testing.T, conn *Conn, p *peer) {
				_ = conn.SetWriteDeadline(time.Unix(1, 0))
				p.keyUpdate(true)
				readBack(t, conn, p)
			}},
		} {
			t.Run(fmt.Sprintf("%s/%d", tt.name, sndbuf), func(t *testing.T) {
				t.Parallel()
				s := realServer(t, offloadAll)
				clientEnd, serverEnd := smallPair(t, sndbuf)
				conn, p, _ := s.connectPeerOver(t, tls.VersionTLS13, clientEnd, serverEnd)
				body := testutil.Body(16 << 20)
				sent := fillKernel(t, conn, body)
				tt.before(t, conn, p)
				if err := conn.Close(); err != nil {
					t.Error("Close:", err)
				}
				receiving(t, p, body[:sent])()
				wantEnd(t, p)
				waitFor(t, s.Server)
				s.wantNoneLost(t)
			})
		}
	}
}
