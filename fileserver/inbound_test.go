package fileserver

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// readInbound returns what the server gets of a client's stream that arrives in
// pieces of n bytes, and the streams that were reset.
func readInbound(in *inbound, stream []byte, n int) (got []byte, resets []uint32) {
	p := make([]byte, 100)
	for {
		for m := in.read(p); m > 0; m = in.read(p) {
			got = append(got, p[:m]...)
		}
		if len(stream) == 0 {
			return got, resets
		}
		m := copy(p, stream[:min(n, in.most(), len(p), len(stream))])
		stream = stream[m:]
		m, _ = in.add(p[:m], func(id uint32) error { resets = append(resets, id); return nil })
		got = append(got, p[:m]...)
	}
}

// clientFrames returns frames, illegal ones included, behind the preface.
func clientFrames(t testing.TB, write ...frame) []byte {
	t.Helper()
	b := bytes.NewBufferString(http2.ClientPreface)
	framer := http2.NewFramer(b, nil)
	framer.AllowIllegalWrites = true
	for _, f := range write {
		if err := f(framer); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// A frame writes a frame.
type frame = func(*http2.Framer) error

func settings(settings ...http2.Setting) frame {
	return func(f *http2.Framer) error { return f.WriteSettings(settings...) }
}

// The server reads what its client has sent.
func TestInbound(t *testing.T) {
	setting := http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1}
	tests := []struct {
		name   string
		sent   []frame
		resets []uint32
	}{
		{name: "settings", sent: []frame{settings(setting)}},
		{name: "no settings", sent: []frame{settings(), settings(setting)}},
		{name: "first frame is no settings", sent: []frame{
			func(f *http2.Framer) error { return f.WritePing(false, [8]byte{}) }, settings(setting),
		}},
		{
			name: "other frames",
			sent: []frame{
				settings(setting),
				(*http2.Framer).WriteSettingsAck,
				func(f *http2.Framer) error { return f.WriteWindowUpdate(0, 1<<20) },
				func(f *http2.Framer) error {
					return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: make([]byte, 300)})
				},
				func(f *http2.Framer) error { return f.WriteContinuation(1, true, make([]byte, 20_000)) },
				func(f *http2.Framer) error { return f.WriteData(1, true, make([]byte, 100_000)) },
				func(f *http2.Framer) error { return f.WriteData(3, true, nil) },
				func(f *http2.Framer) error { return f.WriteRSTStream(3, http2.ErrCodeCancel) },
				func(f *http2.Framer) error { return f.WriteRawFrame(0xbe, 0xff, 1<<31-1, []byte("unknown")) },
			},
			resets: []uint32{3},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, n := range []int{1, 2, 9, 10, 1000} {
				got, resets := readInbound(new(inbound), clientFrames(t, tt.sent...), n)
				if !bytes.Equal(got, clientFrames(t, tt.sent...)) {
					t.Errorf("in pieces of %d the server reads\n%x", n, got)
				}
				if !slices.Equal(resets, tt.resets) {
					t.Errorf("in pieces of %d the streams %v are reset, want %v", n, resets, tt.resets)
				}
			}
		})
	}
}

// What is inserted stands between two frames, behind the first, and not inside a
// header block.
func TestInboundInserts(t *testing.T) {
	ping := frames(func(f *http2.Framer) error { return f.WritePing(false, [8]byte{7}) })
	unsettled := len(http2.ClientPreface)
	stream := clientFrames(t, settings())
	legal := map[int]bool{len(stream): true}
	for _, next := range []struct {
		may   bool
		write frame
	}{
		{false, func(f *http2.Framer) error {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: make([]byte, 300)})
		}},
		{false, func(f *http2.Framer) error { return f.WriteContinuation(1, false, make([]byte, 5)) }},
		{false, func(f *http2.Framer) error { return f.WriteContinuation(1, false, nil) }},
		{true, func(f *http2.Framer) error { return f.WriteContinuation(1, true, make([]byte, 200)) }},
		{true, func(f *http2.Framer) error { return f.WriteData(1, false, make([]byte, 1000)) }},
		{true, func(f *http2.Framer) error { return f.WriteData(1, true, nil) }},
		{true, func(f *http2.Framer) error {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, EndHeaders: true, BlockFragment: make([]byte, 9)})
		}},
	} {
		stream = append(stream, frames(next.write)...)
		legal[len(stream)] = next.may
	}
	for place := range len(stream) + 1 {
		var in inbound
		got, _ := readInbound(&in, stream[:place], 1)
		in.inserted = bytes.Clone(ping)
		rest, _ := readInbound(&in, stream[place:], 1)
		got = append(got, rest...)
		i := bytes.Index(got, ping)
		if i < 0 {
			t.Fatalf("what is inserted at %d is not read", place)
		}
		if !legal[i] || i < unsettled {
			t.Errorf("what is inserted at %d is read at %d", place, i)
		}
		if !bytes.Equal(slices.Delete(got, i, i+len(ping)), stream) {
			t.Errorf("what is inserted at %d changes what is read", place)
		}
	}
}

// A Read that waits returns what is inserted, at once, and keeps its deadline.
func TestInboundWakes(t *testing.T) {
	client, conn := http2Pipe(t, new(Server))
	ping := frames(func(f *http2.Framer) error { return f.WritePing(false, [8]byte{7}) })
	start := clientFrames(t, settings())
	if _, err := client.Write(start); err != nil {
		t.Fatal(err)
	}
	read := func(want []byte) {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("read %x, %v; want %x", got, err, want)
		}
	}
	read(start)
	for range 100 {
		go conn.insert(ping)
		read(ping)
	}
	go func() {
		for range 100 {
			conn.insert(ping)
			_ = conn.SetReadDeadline(time.Now().Add(time.Hour))
		}
		_, _ = client.Write(ping)
	}()
	for range 101 {
		read(ping)
	}
	_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	conn.insert(ping)
	read(ping)
	if n, err := conn.Read(make([]byte, 9)); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the deadline Read returns %d, %v", n, err)
	}
	_ = conn.SetReadDeadline(time.Time{})
	go conn.insert(ping)
	read(ping)
	client.Close()
	if n, err := conn.Read(make([]byte, 9)); n > 0 || !errors.Is(err, io.EOF) {
		t.Errorf("after the end Read returns %d, %v", n, err)
	}
}

// http2Pipe returns both sides of a connection whose handshake is over.
func http2Pipe(t testing.TB, s *Server) (*tls.Conn, *Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	raw, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	config, _ := testConfig()
	config.NextProtos = []string{"h2"}
	s.TLS = ktls.NewServer(config, nil)
	conn := newConn(s.TLS.Conn(accepted), &listener{server: s})
	client := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	t.Cleanup(func() { client.Close(); conn.Close() })
	shaken := make(chan error)
	go func() { shaken <- client.Handshake() }()
	conn.handshake.Do(conn.shakeHands)
	if err := errors.Join(<-shaken, conn.handshakeErr); err != nil {
		t.Fatal(err)
	}
	return client, conn
}

// However the stream is cut, the server reads the same.
func FuzzInbound(f *testing.F) {
	f.Add(clientFrames(f, settings()), 30)
	f.Add(clientFrames(f, settings(), func(f *http2.Framer) error { return f.WriteRSTStream(1, 0) }), 3)
	f.Fuzz(func(t *testing.T, stream []byte, n int) {
		n = max(n, 1)
		got, resets := readInbound(new(inbound), stream, n)
		whole, wholeResets := readInbound(new(inbound), stream, 1<<20)
		if !bytes.Equal(got, whole) || !slices.Equal(resets, wholeResets) {
			t.Errorf("in pieces of %d %x is read as %x and %v, else as %x and %v", n, stream, got, resets, whole, wholeResets)
		}
		if !bytes.HasPrefix(stream, got) {
			t.Errorf("%x is read as %x", stream, got)
		}
	})
}
