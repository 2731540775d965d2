package ktls

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// The calls that send share their arguments' place: nothing of one may show in
// the next, whether it waits, runs into a deadline or fails. Without a key the
// kernel sends what it is given.
func TestSendCalls(t *testing.T) {
	client, server := smallPair(t, 4096)
	k := newSocket(server)
	body, closed := testutil.Body(300_000), testutil.OpenFile(t, []byte("closed"))
	f := testutil.OpenFile(t, body)
	closed.Close()

	var want bytes.Buffer
	_ = server.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	n, err := k.send(body, true) // more than fits
	testutil.WantError(t, err, os.ErrDeadlineExceeded)
	want.Write(body[:n])
	m, err := k.sendFile(filerange.Segment{File: f, Len: 1000}, patient{})
	if m != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("sendFile after the deadline: %d, %v", m, err)
	}
	_ = server.SetWriteDeadline(time.Time{})
	for {
		if err = k.sendControl(recordAlert, body[:2], false); err != nil {
			break
		}
		want.Write(body[:2])
	}
	testutil.WantError(t, err, errWouldBlock)

	got := make(chan []byte, 1)
	go func() { b, _ := io.ReadAll(client); got <- b }()
	for i := range 20 {
		size := 1 + i*997
		if n, err := k.send(body[:size], i%2 == 0); n != size || err != nil {
			t.Fatalf("send: %d, %v", n, err)
		}
		want.Write(body[:size])
		if n, err := k.sendFile(filerange.Segment{File: closed, Len: 6}, patient{}); n != 0 || err == nil {
			t.Fatalf("sendFile of a closed file: %d, %v", n, err)
		}
		for sent := int64(0); sent < 280_000; {
			n, err := k.sendFile(filerange.Segment{File: f, Offset: int64(i) + sent, Len: 280_000 - sent}, patient{})
			if n <= 0 || err != nil {
				t.Fatalf("sendFile: %d, %v", n, err)
			}
			sent += n
		}
		want.Write(body[i : i+280_000])
		if err := k.sendControl(recordAlert, []byte{1, byte(i)}, true); err != nil {
			t.Fatal(err)
		}
		want.Write([]byte{1, byte(i)})
		if n, err := k.sendFile(filerange.Segment{File: f, Offset: int64(len(body)), Len: 10}, patient{}); n != 0 || err != nil {
			t.Fatalf("sendFile at the end: %d, %v", n, err)
		}
	}
	if c := k.(*socket).sending; c.message.left != nil || c.message.control != nil || c.file.raw != nil || c.frames.header != nil {
		t.Error("a buffer or a file is kept")
	}
	server.Close()
	testutil.SameBody(t, <-got, want.Bytes())
	n, err = k.send(body[:10], false)
	if n != 0 || !errors.Is(err, net.ErrClosed) {
		t.Errorf("send after close: %d, %v", n, err)
	}
	if n, err := k.sendFile(filerange.Segment{File: f, Len: 10}, patient{}); n != 0 || !errors.Is(err, net.ErrClosed) {
		t.Errorf("sendFile after close: %d, %v", n, err)
	}
}

// corked reports whether a connection has TCP_CORK.
func corked(t *testing.T, c *net.TCPConn) (on bool) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) {
			var value int
			value, err = unix.GetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_CORK)
			on = value != 0
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return on
}

// wantUncorked waits until a connection is not corked any more.
func wantUncorked(t *testing.T, c *net.TCPConn) {
	t.Helper()
	testutil.Eventually(t, "the connection is not corked", func() error {
		if corked(t, c) {
			return errors.New("it is")
		}
		return nil
	})
}

// A connection that has to wait for room is not corked: what TCP holds back for
// a whole segment could be all that fits.
func TestCork(t *testing.T) {
	client, server := smallPair(t, 4096)
	k := newSocket(server)
	body := testutil.Body(300_000)
	f := testutil.OpenFile(t, body)

	k.cork(true)
	if n, err := k.send(body[:10], true); n != 10 || err != nil || !corked(t, server) {
		t.Errorf("%d bytes sent, %v, corked: %v", n, err, corked(t, server))
	}
	sent := make(chan error, 1)
	go func() {
		for done := int64(10); done < int64(len(body)); {
			n, err := k.sendFile(filerange.Segment{File: f, Offset: done, Len: int64(len(body)) - done}, patient{})
			if n <= 0 || err != nil {
				sent <- fmt.Errorf("sendFile: %d, %w", n, err)
				return
			}
			done += n
		}
		sent <- nil
	}()
	wantUncorked(t, server) // as nobody reads
	got := make(chan []byte, 1)
	go func() { b, _ := io.ReadAll(client); got <- b }()
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	for range 2 {
		k.cork(true)
		if !corked(t, server) {
			t.Error("not corked again")
		}
		k.cork(false)
		if corked(t, server) {
			t.Error("corked")
		}
	}
	server.Close()
	testutil.SameBody(t, <-got, body)
	k.cork(true) // does no harm
}
