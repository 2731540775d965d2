package ktls

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// Cases of the kernel's own tests, tools/testing/selftests/net/tls.c, that no
// other test covers; docs/testing.md has the list of all that send.

// kernelPeer returns a socket and a client that knows its key, which the socket
// has yet to get.
func kernelPeer(t testing.TB, s *suite) (kernel, *peer) {
	t.Helper()
	testutil.RequireKernelTLS(t, Probe)
	clientEnd, serverEnd := tcpPair(t)
	p := &peer{t: t, conn: clientEnd, r: bufio.NewReader(clientEnd), suite: s}
	p.in.set(t, s, testutil.Body(s.secretLen))
	p.in.sequence = 1
	return newSocket(serverEnd), p
}

// A key that the kernel can't use leaves the socket as it was: plain data pass,
// and the right key can be set (bad_cipher, base_base, non_established). The same
// for a key that is to replace another (rekey_fail).
func TestKernelBadInfo(t *testing.T) {
	testutil.RequireKernelTLS(t, Probe)
	s := &suites[0]
	k, p := kernelPeer(t, s)
	info := cryptoInfo(p.in.key, 1)
	bad := func(version, cipher uint16) []byte {
		b := bytes.Clone(info)
		binary.NativeEndian.PutUint16(b, version)
		binary.NativeEndian.PutUint16(b[2:], cipher)
		return b
	}
	bads := [][]byte{bad(200, s.kernel), bad(s.version, 10), bad(s.version, 50), bad(s.version, 70), info[:len(info)-8]}
	for _, b := range bads {
		if err := k.setKey(b, s.overhead()); err == nil {
			t.Fatalf("the kernel has taken %x", b[:4])
		}
		wait := receiving(t, p.conn, []byte("plain"))
		if _, err := k.send([]byte("plain"), false); err != nil {
			t.Fatal(err)
		}
		wait()
	}
	if err := k.setKey(info, s.overhead()); err != nil {
		t.Fatal(err)
	}
	body := testutil.Body(70_000)
	for _, b := range bads {
		wait := receiving(t, p, body)
		if n, err := k.send(body, false); n != len(body) || err != nil {
			t.Fatalf("send = %d, %v", n, err)
		}
		wait()
		if err := k.rekey(b); err == nil {
			t.Fatalf("the kernel has taken %x for another key", b[:4])
		}
	}
}

// The last record number is not used: the next would be one that was
// (recseq_wrap). The proof of the number would not hold up to it, nor the limit
// of a key.
func TestKernelNumberWraps(t *testing.T) {
	testutil.RequireKernelTLS(t, Probe)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			for i := range suites {
				if suites[i].version != version {
					continue
				}
				k, p := kernelPeer(t, &suites[i])
				if err := k.setKey(cryptoInfo(p.in.key, math.MaxUint64), suites[i].overhead()); err != nil {
					t.Fatal(err)
				}
				if n, err := k.send(testutil.Body(10), false); n != 0 || !errors.Is(err, unix.EBADMSG) {
					t.Errorf("%v: send = %d, %v", &suites[i], n, err)
				}
			}
		})
	}
}

// Files in pieces of the lengths of multi_chunk_sendfile.
func TestKernelPieces(t *testing.T) {
	s := realServer(t, offloadAll)
	conn, p, _ := s.connectPeer(t)
	for _, tt := range [][2]int{
		{4096, 4096}, {4096, 0}, {4096, 1}, {4096, 2048}, {8192, 2048}, {4096, 8192}, {8192, 4096}, {12288, 1024},
		{12288, 2000}, {15360, 100}, {15360, 300}, {1, 4096}, {2048, 4096}, {2048, 8192}, {4096, 8192}, {1024, 12288},
		{2000, 12288}, {100, 15360}, {300, 15360},
	} {
		piece, total := tt[0], tt[0]+tt[1]
		body := testutil.Body(total)
		f := testutil.OpenFile(t, body)
		wait := receiving(t, p, body)
		for offset := 0; offset < total; offset += piece {
			n := int64(min(piece, total-offset))
			if sent, err := conn.SendFile(nil, filerange.Segment{File: f, Offset: int64(offset), Len: n}); sent != n || err != nil {
				t.Fatalf("SendFile = %d, %v", sent, err)
			}
		}
		wait()
	}
	s.end(t, conn, p)
}

// Control records are merged neither with each other nor with data
// (control_msg_nomerge, data_control_data).
func TestKernelControlRecords(t *testing.T) {
	testutil.RequireKernelTLS(t, Probe)
	for i := range suites {
		s := &suites[i]
		t.Run(s.String(), func(t *testing.T) {
			k, p := kernelPeer(t, s)
			if err := k.setKey(cryptoInfo(p.in.key, 1), s.overhead()); err != nil {
				t.Fatal(err)
			}
			sent := []control{
				{recordApplicationData, []byte("1111")}, {recordAlert, []byte{1, 90}}, {recordAlert, []byte{1, 90}},
				{recordApplicationData, []byte("3333")}, {recordAlert, closeNotify[:]},
			}
			for _, r := range sent {
				var err error
				if r.typ == recordApplicationData {
					_, err = k.send(r.body, false)
				} else {
					err = k.sendControl(r.typ, r.body, true)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			for _, want := range sent {
				typ, content, err := p.next()
				if typ != want.typ || !bytes.Equal(content, want.body) || err != nil {
					t.Errorf("record of type %d with %x, %v; want type %d with %x", typ, content, err, want.typ, want.body)
				}
			}
		})
	}
}

// Several goroutines send on one connection (mutliproc_even, _writers and their
// forms with sendfile). What one call sends stays together.
func TestKernelWriters(t *testing.T) {
	s := realServer(t, offloadAll)
	conn, client, _ := s.connect(t, clientConfig())
	const writers, rounds, n = 6, 5, 60_000
	got := make(chan error, 1)
	counts := map[byte]int{}
	go func() {
		piece := make([]byte, n)
		for range writers * rounds {
			if _, err := io.ReadFull(client, piece); err != nil {
				got <- err
				return
			}
			if !bytes.Equal(piece, bytes.Repeat(piece[:1], n)) {
				got <- errors.New("pieces are mixed up")
				return
			}
			counts[piece[0]]++
		}
		got <- nil
	}()
	var all sync.WaitGroup
	for i := range writers {
		body := bytes.Repeat([]byte{byte(i)}, n)
		f := testutil.OpenFile(t, body)
		all.Go(func() {
			for range rounds {
				var err error
				if i%2 == 0 {
					_, err = conn.Write(body)
				} else {
					_, err = conn.SendFile(body[:1000], filerange.Segment{File: f, Offset: 1000, Len: n - 1000})
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if err := <-got; err != nil {
		t.Error(err)
	}
	for i := range writers {
		if counts[byte(i)] != rounds {
			t.Errorf("%d pieces of writer %d, want %d", counts[byte(i)], i, rounds)
		}
	}
	s.end(t, conn, client)
}

// Connections over IPv6 (tls_v6ops).
func TestKernelIPv6(t *testing.T) {
	s := realServer(t, onDemand)
	ln, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip("needs IPv6:", err)
	}
	defer ln.Close()
	before := txSockets(t)
	clientEnd, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer clientEnd.Close()
	raw, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	local := raw.LocalAddr().String()
	conn, client := s.Conn(raw), tls.Client(&testutil.Recording{Conn: clientEnd}, clientConfig())
	handshake(t, conn, client)
	offload(t, conn, client)
	transferFrom(t, conn, client, testutil.OpenFile(t, testutil.Body(300_000)), testutil.Body(300_000))
	wantTxSockets(t, before, 1)
	if conn.LocalAddr().String() != local {
		t.Errorf("the address has become %v, was %s", conn.LocalAddr(), local)
	}
	s.end(t, conn, client)
}
