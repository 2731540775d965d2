package ktls

import (
	"bytes"
	"io"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// framed returns what SendFrames makes of a body.
func framed(header string, body []byte, n, count int) (all []byte) {
	for i := range count {
		all = append(append(all, header...), body[i*n:][:n]...)
	}
	return all
}

// Each header shares a record with its part, however the kernel takes the file.
func TestSendFrames(t *testing.T) {
	const n, count = 16_368, 4
	body := testutil.Body(100 + n*count)
	for _, most := range []int64{0, 100, 10_001} {
		conn, client, k := offloaded(t, func(k *fakeKernel) { k.MaxFile = most })
		wait := receiving(t, client, append(framed("header", body[100:], n, count), "end"...))
		f := testutil.OpenFile(t, body)
		if sent, err := conn.SendFrames([]byte("header"), filerange.Segment{File: f, Offset: 100, Len: n * count}, n); sent != n*count || err != nil {
			t.Errorf("SendFrames = %d, %v", sent, err)
		}
		if offset, _ := f.Seek(0, io.SeekCurrent); offset != 0 {
			t.Errorf("the file is at %d", offset)
		}
		if _, err := conn.Write([]byte("end")); err != nil {
			t.Error(err)
		}
		wait()
		k.wantSent(t, count*(n+6)+3, count*n)
		if got := k.records(); got != count+1 {
			t.Errorf("%d records, want %d", got, count+1)
		}
	}
}

// What the kernel refuses can be written behind the header that is out.
func TestSendFramesRefused(t *testing.T) {
	body := testutil.Body(20_000)
	conn, client, _ := offloaded(t, func(k *fakeKernel) { k.noSendFile = true })
	wait := receiving(t, client, framed("header", body, 10_000, 2))
	sent, err := conn.SendFrames([]byte("header"), filerange.Segment{File: testutil.OpenFile(t, body), Len: 20_000}, 10_000)
	if sent != 0 {
		t.Errorf("%d bytes sent", sent)
	}
	testutil.WantError(t, err, ErrNoSendfile)
	for _, p := range [][]byte{body[:10_000], []byte("header"), body[10_000:]} {
		if _, err := conn.Write(p); err != nil {
			t.Error(err)
		}
	}
	wait()
}

// A file that ends early ends the connection, as it does by SendFile.
func TestSendFramesShort(t *testing.T) {
	for _, size := range []int{20_000, 25_000} {
		s := newFakeServer(t, serverConfig(), offloadAll, nil)
		conn, p, _ := s.connectPeer(t)
		done := make(chan error, 1)
		go func() { _, err := io.Copy(io.Discard, p); done <- err }()
		sent, err := conn.SendFrames([]byte("header"), filerange.Segment{File: testutil.OpenFile(t, testutil.Body(size)), Len: 30_000}, 10_000)
		if sent != int64(size) {
			t.Errorf("%d bytes sent of %d", sent, size)
		}
		testutil.WantError(t, err, io.ErrUnexpectedEOF)
		_, err = conn.Write(bytes.Repeat([]byte("x"), 10))
		testutil.WantError(t, err, io.ErrUnexpectedEOF)
		conn.Close()
		testutil.WantError(t, <-done, io.ErrUnexpectedEOF)
	}
}

func TestSendFramesNotOffloaded(t *testing.T) {
	s := newFakeServer(t, serverConfig(), onDemand, nil)
	conn, client, k := s.connect(t, clientConfig())
	conn.Cork(true)
	_, err := conn.SendFrames([]byte("x"), filerange.Segment{File: testutil.OpenFile(t, testutil.Body(10)), Len: 10}, 10)
	testutil.WantError(t, err, errNotOffloaded)
	transfer(t, conn, client, testutil.Body(70_000))
	if k != nil && k.Corked() {
		t.Error("a connection that is not offloaded is corked")
	}
}

// Cork holds until it is told otherwise.
func TestCorkOfConn(t *testing.T) {
	conn, client, k := offloaded(t, nil)
	for _, on := range []bool{true, true, false, false} {
		conn.Cork(on)
		if k.Corked() != on {
			t.Errorf("corked: %v, want %v", !on, on)
		}
		transfer(t, conn, client, testutil.Body(1000))
	}
}
