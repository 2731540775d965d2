package ktls

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

func TestClose(t *testing.T) {
	conn, client, k := offloaded(t, nil)
	transfer(t, conn, client, testutil.Body(70_000))
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
	testutil.WantError(t, conn.Close(), net.ErrClosed)
	_, err := conn.Write([]byte("x"))
	testutil.WantError(t, err, net.ErrClosed)
	_, err = conn.Read(make([]byte, 1))
	testutil.WantError(t, err, net.ErrClosed)
}

func TestCloseWrite(t *testing.T) {
	conn, client, k := offloaded(t, nil)
	transfer(t, conn, client, testutil.Body(70_000))
	for range 2 {
		if err := conn.CloseWrite(); err != nil {
			t.Error("CloseWrite:", err)
		}
	}
	wantEnd(t, client)
	_, err := conn.Write([]byte("x"))
	testutil.WantError(t, err, errWriteShut)
	_, err = conn.SendFile(nil, filerange.Segment{File: testutil.OpenFile(t, testutil.Body(10)), Len: 10})
	testutil.WantError(t, err, errWriteShut)
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

// CloseWrite before the offload means that there won't be one.
func TestCloseWriteBeforeOffload(t *testing.T) {
	s := newFakeServer(t, serverConfig(), onDemand, nil)
	conn, client, k := s.connect(t, clientConfig())
	transfer(t, conn, client, testutil.Body(70_000))
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
	_, err := conn.Write(testutil.Body(100))
	testutil.WantError(t, err, os.ErrDeadlineExceeded)
	if err := conn.SetWriteDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	_, err = conn.Write(testutil.Body(100))
	testutil.WantError(t, err, os.ErrDeadlineExceeded)
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
			_, err = conn.Write(testutil.Body(1 << 20))
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
					_ = client.NetConn().(*testutil.Recording).Conn.(*net.TCPConn).CloseWrite()
				}
				if got, err := io.ReadAll(conn); string(got) != "request" || err != nil {
					t.Errorf("read %q, %v", got, err)
				}
				conn.Offload()
				transfer(t, conn, client, testutil.Body(70_000))
				if tcpToo && mode == onDemand && k == nil {
					// Linux takes established connections only.
					wantState(t, conn, Closing)
				} else {
					wantState(t, conn, Offloaded)
				}
				transferFrom(t, conn, client, testutil.OpenFile(t, testutil.Body(300_000)), testutil.Body(300_000))
				s.end(t, conn, client)
			})
		}
	}
}
