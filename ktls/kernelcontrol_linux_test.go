package ktls

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// Alerts of crypto/tls become control records of the kernel.
func TestKernelAlert(t *testing.T) {
	s := realServer(t, offloadAll)
	conn, p, _ := s.connectPeer(t)
	transfer(t, conn, p, testutil.Body(100_000))
	p.garbage()
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("garbage was read")
	}
	p.wantControl(t, recordAlert, 2, 20)
	_, err := conn.Write([]byte("x"))
	testutil.WantError(t, err, errAlertSent)
	conn.Close()
	if typ, content, err := p.next(); err != io.EOF {
		t.Errorf("after the alert: %d, %x, %v", typ, content, err)
	}
	waitFor(t, s.Server)
}

// KeyUpdates while a file is sent: the file arrives whole, under as many keys as
// the peer has asked for, or under the old one if the kernel has no rekey.
func TestKernelKeyUpdate(t *testing.T) {
	s := realServer(t, offloadAll)
	conn, p, _ := s.connectPeer(t)
	read := make(chan error, 1)
	go func() { _, err := io.ReadFull(conn, make([]byte, 8*4)); read <- err }()
	body := testutil.Body(8_000_000)
	sent := make(chan error, 1)
	go func() { _, err := conn.ReadFrom(testutil.OpenFile(t, body)); sent <- err }()
	for part := range slices.Chunk(body, len(body)/8) {
		p.keyUpdate(true)
		p.write(recordApplicationData, []byte("next"))
		receiving(t, p, part)()
	}
	if err := <-read; err != nil {
		t.Error("Read:", err)
	}
	if err := <-sent; err != nil {
		t.Error("ReadFrom:", err)
	}
	transfer(t, conn, p, testutil.Body(70_000))
	if conn.Retired() == s.support.Rekey {
		t.Errorf("retired %v, though the kernel can rekey: %v", conn.Retired(), s.support.Rekey)
	}
	if s.support.Rekey != (p.updates > 1) {
		t.Errorf("%d KeyUpdates of the server", p.updates)
	}
	t.Logf("%d KeyUpdates of the server", p.updates)
	conn.Close()
	wantEnd(t, p)
}

// With a low limit the kernel gets new keys all the time.
func TestKernelKeyLimit(t *testing.T) {
	s := realServer(t, offloadAll)
	s.keyLimit = 100
	conn, p, _ := s.connectPeer(t)
	body := testutil.Body(8_000_000)
	wait := receiving(t, p, body)
	if n, err := conn.ReadFrom(testutil.OpenFile(t, body)); n != int64(len(body)) || err != nil {
		t.Errorf("ReadFrom = %d, %v", n, err)
	}
	wait()
	wait = receiving(t, p, body)
	for part := range slices.Chunk(body, 50_000) {
		if _, err := conn.Write(part); err != nil {
			t.Fatal(err)
		}
	}
	wait()
	if s.support.Rekey == conn.Retired() || s.support.Rekey != (p.updates > 5) {
		t.Errorf("%d KeyUpdates of the server, retired: %v", p.updates, conn.Retired())
	}
	conn.Close()
	wantEnd(t, p)
}

// CloseWrite ends one direction.
func TestKernelCloseWrite(t *testing.T) {
	s := realServer(t, offloadAll)
	conn, client, _ := s.connect(t, clientConfig())
	transfer(t, conn, client, testutil.Body(100_000))
	if err := conn.CloseWrite(); err != nil {
		t.Error("CloseWrite:", err)
	}
	wantEnd(t, client)
	if _, err := client.Write([]byte("request")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 7)); err != nil {
		t.Error("Read:", err)
	}
	conn.Close()
}

// Close doesn't wait for a sendfile(2) that is blocked, nor does the alert of a
// reader that can't be sent.
func TestKernelCloseWhileBlocked(t *testing.T) {
	s := realServer(t, offloadAll)
	conn, p, _ := s.connectPeer(t)
	sent := make(chan error, 1)
	go func() {
		_, err := conn.ReadFrom(testutil.OpenFile(t, testutil.Body(32<<20))) // nobody reads
		sent <- err
	}()
	for conn.out.TryLock() {
		conn.out.Unlock()
		time.Sleep(time.Millisecond)
	}
	p.garbage()
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("garbage was read")
	}
	begin := time.Now()
	conn.Close()
	if err := <-sent; err == nil {
		t.Error("ReadFrom succeeded")
	}
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("Close took %v", d)
	}
}

// A peer that has gone, with data and without on their way.
func TestKernelPeerGone(t *testing.T) {
	for _, unread := range []bool{false, true} {
		s := realServer(t, offloadAll)
		conn, client, _ := s.connect(t, clientConfig())
		transfer(t, conn, client, testutil.Body(100_000))
		if unread {
			if _, err := conn.Write(testutil.Body(100_000)); err != nil {
				t.Fatal(err)
			}
		}
		client.NetConn().Close()
		_, _ = io.ReadAll(conn)
		conn.Close()
		waitFor(t, s.Server)
		if !unread && len(s.lost) > 0 {
			t.Errorf("lost without data on their way: %v", s.lost)
		}
	}
}

// unsent knows what the TLS layer holds, which the kernel doesn't tell.
func TestKernelUnsent(t *testing.T) {
	testutil.RequireKernelTLS(t, Probe)
	for i := range suites {
		s := &suites[i]
		t.Run(s.String(), func(t *testing.T) {
			clientEnd, serverEnd := smallPair(t, 4096)
			p := &peer{t: t, conn: clientEnd, suite: s}
			p.in.set(t, s, testutil.Body(s.secretLen))
			p.in.sequence = 5
			k := newSocket(serverEnd)
			if err := k.setKey(cryptoInfo(p.in.key, 5), s.overhead()); err != nil {
				t.Fatal(err)
			}
			// As much as goes in while nobody reads.
			body, sent := testutil.Body(1<<20), 0
			for {
				_ = serverEnd.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
				n, err := k.send(body[sent:min(sent+16384, len(body))], false)
				sent += n
				if err != nil {
					testutil.WantError(t, err, os.ErrDeadlineExceeded)
					break
				}
			}
			_ = serverEnd.SetWriteDeadline(time.Time{})
			// Room for one more record: the rest stays where it is.
			var wire bytes.Buffer
			err := k.sendControl(recordAlert, closeNotify[:], false)
			for errors.Is(err, errWouldBlock) {
				_, _ = io.CopyN(&wire, clientEnd, 100)
				err = k.sendControl(recordAlert, closeNotify[:], false)
			}
			if err != nil {
				t.Fatal(err)
			}
			// The two numbers belong together if no acknowledgment came between.
			var q int
			var acked uint64
			for before := ^uint64(0); acked != before; {
				before = acked
				if q, err = k.unsent(); err != nil {
					t.Fatal(err)
				}
				if acked, err = k.acked(); err != nil {
					t.Fatal(err)
				}
			}
			tcpOnly, err := unix.IoctlGetInt(rawDescriptor(t, serverEnd), unix.SIOCOUTQ)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d bytes sent, %d not acknowledged, %d in TCP's queue", sent, q, tcpOnly)
			if _, err := io.CopyN(&wire, clientEnd, int64(acked)+int64(q)-int64(wire.Len())); err != nil {
				t.Fatal(err)
			}
			p.r = bufio.NewReader(&wire)
			receiving(t, p, body[:sent])()
			wantEnd(t, p)
			if wire.Len() > 0 || p.r.Buffered() > 0 {
				t.Error("more bytes than unsent has told")
			}
			for q > 0 {
				if q, err = k.unsent(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func rawDescriptor(t testing.TB, tcp *net.TCPConn) (fd int) {
	t.Helper()
	raw, err := tcp.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(n uintptr) { fd = int(n) })
	return fd
}
