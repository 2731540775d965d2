package ktls

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Alerts of crypto/tls become control records of the kernel.
func TestKernelAlert(t *testing.T) {
	s := realServer(t, AtHandshake)
	conn, p, _ := s.connectPeer(t)
	transfer(t, conn, p, testBody(100_000))
	p.garbage()
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("garbage was read")
	}
	p.wantControl(t, recordAlert, 2, 20)
	_, err := conn.Write([]byte("x"))
	wantError(t, err, errAlertSent)
	conn.Close()
	if typ, content, err := p.next(); err != io.EOF {
		t.Errorf("after the alert: %d, %x, %v", typ, content, err)
	}
	waitFor(t, s.Server)
}

// A KeyUpdate while a file is sent: the file arrives under the old key.
func TestKernelKeyUpdate(t *testing.T) {
	s := realServer(t, AtHandshake)
	conn, p, _ := s.connectPeer(t)
	p.write(recordApplicationData, []byte("request"))
	if _, err := io.ReadFull(conn, make([]byte, 7)); err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() { _, err := io.ReadFull(conn, make([]byte, 4)); read <- err }()
	body := testBody(8_000_000)
	wait := receiving(t, p, body)
	sent := make(chan error, 1)
	go func() { _, err := conn.ReadFrom(testFile(t, body)); sent <- err }()
	p.keyUpdate(true)
	p.write(recordApplicationData, []byte("next"))
	if err := <-read; err != nil {
		t.Error("Read:", err)
	}
	if err := <-sent; err != nil {
		t.Error("ReadFrom:", err)
	}
	wait()
	transfer(t, conn, p, testBody(70_000))
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("Read = %d, %v; want the end", n, err)
	}
	conn.Close()
	wantEnd(t, p)
}

// CloseWrite ends one direction.
func TestKernelCloseWrite(t *testing.T) {
	s := realServer(t, AtHandshake)
	conn, client, _ := s.connect(t, clientConfig())
	transfer(t, conn, client, testBody(100_000))
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
	s := realServer(t, AtHandshake)
	conn, p, _ := s.connectPeer(t)
	sent := make(chan error, 1)
	go func() {
		_, err := conn.ReadFrom(testFile(t, testBody(32<<20))) // nobody reads
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
		s := realServer(t, AtHandshake)
		conn, client, _ := s.connect(t, clientConfig())
		transfer(t, conn, client, testBody(100_000))
		if unread {
			if _, err := conn.Write(testBody(100_000)); err != nil {
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
	requireKernelTLS(t)
	for i := range suites {
		s := &suites[i]
		t.Run(s.name, func(t *testing.T) {
			clientEnd, serverEnd := smallPair(t, 4096)
			p := &peer{t: t, conn: clientEnd, suite: s}
			p.in.set(t, s, testBody(s.secretLen))
			p.in.sequence = 5
			k := newSocket(serverEnd)
			if err := k.install(cryptoInfo(s, p.in.key, 5)); err != nil {
				t.Fatal(err)
			}
			// As much as goes in while nobody reads.
			body, sent := testBody(1<<20), 0
			for {
				_ = serverEnd.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
				n, err := k.send(body[sent:min(sent+16384, len(body))], false)
				sent += n
				if err != nil {
					wantError(t, err, os.ErrDeadlineExceeded)
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
			q, err := k.unsent()
			if err != nil {
				t.Fatal(err)
			}
			tcpOnly, err := unix.IoctlGetInt(rawDescriptor(t, serverEnd), unix.SIOCOUTQ)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d bytes sent, %d not acknowledged, %d in TCP's queue", sent, q.bytes, tcpOnly)
			if _, err := io.CopyN(&wire, clientEnd, int64(q.acked)+int64(q.bytes)-int64(wire.Len())); err != nil {
				t.Fatal(err)
			}
			p.r = bufio.NewReader(&wire)
			receiving(t, p, body[:sent])()
			wantEnd(t, p)
			if wire.Len() > 0 || p.r.Buffered() > 0 {
				t.Error("more bytes than unsent has told")
			}
			for q.bytes > 0 {
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
