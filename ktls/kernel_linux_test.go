package ktls

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

func TestProbe(t *testing.T) {
	support, err := Probe()
	again, againErr := Probe()
	if support != again || (err == nil) != (againErr == nil) {
		t.Errorf("two results: %v, %v and %v, %v", support, err, again, againErr)
	}
	if support.Any() != (err == nil) {
		t.Errorf("%v with error %v", support, err)
	}
	testutil.RequireKernelTLS(t, Probe)
	if !testutil.Required() {
		return
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	want := Support{known: 1<<len(suites) - 1, Rekey: major > 6 || major == 6 && minor >= 14}
	if support != want {
		t.Errorf("Linux %d.%d: %+v, want %+v", major, minor, support, want)
	}
}

// Go can't be told which suite of TLS 1.3 to negotiate, so this goes below it.
func TestKernelCiphers(t *testing.T) {
	testutil.RequireKernelTLS(t, Probe)
	for i := range suites {
		s := &suites[i]
		t.Run(s.String(), func(t *testing.T) {
			clientEnd, serverEnd := tcpPair(t)
			p := &peer{t: t, conn: clientEnd, r: bufio.NewReader(clientEnd), suite: s}
			p.in.set(t, s, testutil.Body(s.secretLen))
			p.in.sequence = 1<<40 + 3
			before := txSockets(t)
			k := newSocket(serverEnd)
			if err := k.setKey(cryptoInfo(p.in.key, p.in.sequence), s.overhead()); err != nil {
				t.Fatal(err)
			}
			body := testutil.Body(300_000)
			wait := receiving(t, p, body)
			if n, err := k.send(body[:100_000], true); n != 100_000 || err != nil {
				t.Errorf("send = %d, %v", n, err)
			}
			f := testutil.OpenFile(t, body[100_000:])
			for rest := int64(200_000); rest > 0; {
				n, err := k.sendFile(filerange.Segment{File: f, Offset: 200_000 - rest, Len: rest}, patient{})
				if n == 0 || err != nil {
					t.Fatalf("sendFile = %d, %v", n, err)
				}
				rest -= n
			}
			wait()
			if err := k.sendControl(recordAlert, closeNotify[:], false); err != nil {
				t.Error("sendControl:", err)
			}
			wantEnd(t, p)
			wantTxSockets(t, before, 1)
		})
	}
}

func TestKernelTransfer(t *testing.T) {
	for _, mode := range []mode{onDemand, offloadAll} {
		for _, n := range []int{1, 513, 16384, 70_000, 5_000_000} {
			for _, file := range []bool{false, true} {
				t.Run(fmt.Sprintf("%v/%d/%v", mode, n, file), func(t *testing.T) {
					s := realServer(t, mode)
					before := txSockets(t)
					conn, client, _ := s.connect(t, clientConfig())
					if mode == onDemand {
						wantTxSockets(t, before, 0)
						offload(t, conn, client)
					}
					wantTxSockets(t, before, 1)
					body := testutil.Body(n)
					if file {
						wait := receiving(t, client, body)
						if sent, err := conn.ReadFrom(testutil.OpenFile(t, body)); sent != int64(n) || err != nil {
							t.Errorf("ReadFrom = %d, %v", sent, err)
						}
						wait()
					} else {
						transfer(t, conn, client, body)
					}
					if err := conn.Close(); err != nil {
						t.Error("Close:", err)
					}
					wantEnd(t, client)
					waitFor(t, s.Server)
					s.wantDecided(t, conn, Offloaded, nil)
				})
			}
		}
	}
}

func TestKernelFirstRecords(t *testing.T) { testFirstRecords(t, realServer(t, offloadAll)) }

// sendfile(2) that proves the sequence number first.
func TestKernelReadFromOnDemand(t *testing.T) {
	s := realServer(t, onDemand)
	before := txSockets(t)
	conn, client, _ := s.connect(t, clientConfig())
	body := testutil.Body(200_000)
	wait := receiving(t, client, body)
	if n, err := conn.ReadFrom(io.LimitReader(testutil.OpenFile(t, body), 200_000)); n != 200_000 || err != nil {
		t.Errorf("ReadFrom = %d, %v", n, err)
	}
	wait()
	wantState(t, conn, Offloaded)
	wantTxSockets(t, before, 1)
}

// What doesn't fit TCP's queue waits in the TLS layer, and close(2) would drop
// it although sendfile(2) has reported success.
func TestKernelCloseWithSmallWindow(t *testing.T) {
	for _, sndbuf := range []int{0, 4096} {
		for _, n := range []int{40_000, 65_536, 65_537, 100_000, 300_000} {
			for _, file := range []bool{false, true} {
				t.Run(fmt.Sprintf("%d/%d/%v", sndbuf, n, file), func(t *testing.T) {
					s := realServer(t, offloadAll)
					clientEnd, serverEnd := smallPair(t, sndbuf)
					conn, client := s.Conn(serverEnd), tls.Client(&testutil.Recording{Conn: clientEnd}, clientConfig())
					handshake(t, conn, client)
					s.writeFirst(t, conn, client)
					wantState(t, conn, Offloaded)
					body := testutil.Body(n)
					closed := make(chan struct{})
					go func() {
						defer close(closed)
						var sent int64
						var err error
						if file {
							sent, err = conn.ReadFrom(testutil.OpenFile(t, body))
						} else {
							m, writeErr := conn.Write(body)
							sent, err = int64(m), writeErr
						}
						if sent != int64(n) || err != nil {
							t.Errorf("sent %d, %v", sent, err)
						}
						if err := conn.Close(); err != nil {
							t.Error("Close:", err)
						}
					}()
					// The client reads when the connection is closed, or
					// can't be because nobody reads.
					select {
					case <-closed:
					case <-time.After(50 * time.Millisecond):
					}
					receiving(t, client, body)()
					wantEnd(t, client)
					<-closed
					waitFor(t, s.Server)
					if len(s.lost) > 0 {
						t.Errorf("lost: %v", s.lost)
					}
				})
			}
		}
	}
}

// Writes and files of all sizes through small buffers: records stay open, calls
// return early.
func TestKernelMixed(t *testing.T) {
	s := realServer(t, offloadAll)
	clientEnd, serverEnd := smallPair(t, 8192)
	conn, client := s.Conn(serverEnd), tls.Client(&testutil.Recording{Conn: clientEnd}, clientConfig())
	handshake(t, conn, client)
	s.writeFirst(t, conn, client)
	body := testutil.Body(2_000_000)
	f := testutil.OpenFile(t, body)
	wait := receiving(t, client, body)
	random := mathrand.New(mathrand.NewPCG(1, 2))
	for rest := len(body); rest > 0; {
		offset := len(body) - rest
		n := min(rest, 1+random.IntN(1<<random.IntN(18)))
		header := min(n, random.IntN(100))
		switch random.IntN(3) {
		case 0:
			if _, err := conn.Write(body[offset:][:n]); err != nil {
				t.Fatal(err)
			}
		case 1:
			if _, err := f.Seek(int64(offset), io.SeekStart); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.ReadFrom(io.LimitReader(f, int64(n))); err != nil {
				t.Fatal(err)
			}
		case 2:
			ahead := random.Int64N(int64(rest-n) + 1)
			sent, err := conn.SendFile(body[offset:][:header], filerange.Segment{File: f, Offset: int64(offset + header), Len: int64(n - header), Ahead: ahead})
			if err != nil || sent < int64(n-header) || sent > int64(n-header)+ahead {
				t.Fatalf("SendFile = %d, %v; want %d to %d", sent, err, n-header, int64(n-header)+ahead)
			}
			n = header + int(sent)
		}
		rest -= n
	}
	wait()
	conn.Close()
	wantEnd(t, client)
}

// A file that ends early leaves no record that looks complete.
func TestKernelShortFile(t *testing.T) {
	s := realServer(t, offloadAll)
	conn, p, _ := s.connectPeer(t)
	go func() {
		sent, err := conn.SendFile(nil, filerange.Segment{File: testutil.OpenFile(t, testutil.Body(70_000)), Len: 80_000})
		if sent != 70_000 || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("SendFile = %d, %v", sent, err)
		}
		conn.Close()
	}()
	_, err := io.ReadAll(p)
	testutil.WantError(t, err, io.ErrUnexpectedEOF)
}
