package fileserver

import (
	"bytes"
	"errors"
	"io"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// wire is a frameSender that keeps what a client would get.
type wire struct {
	got      bytes.Buffer
	files    int  // bytes of files
	moved    bool // see offloaded
	inserted bytes.Buffer
	sending  func() // called before a file is sent
	err      error
}

func (w *wire) pass(p []byte) error {
	w.got.Write(p)
	return w.err
}

func (w *wire) offloaded() bool { return w.moved }

func (w *wire) sendFile(lead []byte, f ktls.File, offset int64, n int) (sentBy, error) {
	if w.sending != nil {
		w.sending()
	}
	p := make([]byte, n)
	if _, err := f.ReadAt(p, offset); err != nil {
		return byKernel, err
	}
	w.got.Write(lead)
	w.got.Write(p)
	w.files += n
	if !w.moved {
		return byCopy, w.err
	}
	return byKernel, w.err
}

func (w *wire) insert(frames []byte) { w.inserted.Write(frames) }

// A testServer writes frames as an HTTP/2 server does, and knows what a client
// should get.
type testServer struct {
	t      testing.TB
	o      *outbound
	wire   wire
	out    bytes.Buffer // to be written
	framer *http2.Framer
	want   bytes.Buffer
	expect *http2.Framer
}

func newTestServer(t testing.TB) *testServer {
	s := &testServer{t: t}
	s.o = newOutbound(&s.wire)
	s.wire.moved = true
	s.framer, s.expect = http2.NewFramer(&s.out, nil), http2.NewFramer(&s.want, nil)
	return s
}

// both writes the same frame to both sides.
func (s *testServer) both(f frame) {
	s.t.Helper()
	must(s.t, errors.Join(f(s.framer), f(s.expect)))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// data writes a DATA frame that passes.
func (s *testServer) data(stream uint32, end bool, content []byte) {
	s.t.Helper()
	s.both(func(f *http2.Framer) error { return f.WriteData(stream, end, content) })
}

// file writes a DATA frame with a placeholder in the place of content.
func (s *testServer) file(stream uint32, placeholder, content []byte) {
	s.t.Helper()
	must(s.t, s.framer.WriteData(stream, false, placeholder))
	must(s.t, s.expect.WriteData(stream, false, content))
}

// flush hands over what was written, in pieces of the lengths that next returns.
func (s *testServer) flush(next func() int) error {
	for s.out.Len() > 0 {
		if err := writeAll(s.o, s.out.Next(next())); err != nil {
			return err
		}
	}
	return nil
}

func whole() int { return 1 << 30 }

// wantWire fails the test if the client does not get the frames that it should
// get.
func (s *testServer) wantWire() {
	s.t.Helper()
	if got, want := s.wire.got.Bytes(), s.want.Bytes(); !bytes.Equal(got, want) {
		s.t.Errorf("the client gets %d bytes, want %d, or others", len(got), len(want))
	}
}

func openFile(t testing.TB, content []byte) *os.File {
	t.Helper()
	name := filepath.Join(t.TempDir(), "f")
	must(t, os.WriteFile(name, content, 0o600))
	f, err := os.Open(name)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func randomBytes(n int, seed byte) []byte {
	b := make([]byte, n)
	_, _ = mathrand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// announce announces a part of a file, and returns its placeholder.
func (s *testServer) announce(p part) []byte {
	s.t.Helper()
	_, placeholder, err := s.o.announce(p)
	must(s.t, err)
	return placeholder
}

func (s *testServer) isSending(id uint32) bool {
	return s.o.streams[id] != nil && slices.Contains(s.o.sending, s.o.streams[id])
}

// settle ends what was announced for a stream, when it was written or could not
// be.
func (s *testServer) settle(id uint32, err error) error {
	return s.o.settle(id, s.o.streams[id], err)
}

// However frames are sized, interleaved and cut, the client gets each stream's
// own bytes, in the order in which the server wrote them.
func TestOutbound(t *testing.T) {
	random := mathrand.New(mathrand.NewPCG(1, 2))
	sizes := []int{1, 2, 9, 100, 4087, 4096, 16375, 16383, 16384, 65536, 200_000}
	size := func() int { return sizes[random.IntN(len(sizes))] }
	for round := range 200 {
		s := newTestServer(t)
		s.wire.moved = round%2 == 0
		type response struct {
			id           uint32
			content      []byte // what is to be written
			source       *os.File
			before, tail int   // of the body that aren't the file's
			at, offset   int64 // in the body and in the file
			announced    []byte
		}
		var responses []*response
		for i := range 1 + random.IntN(6) {
			r := &response{id: uint32(2*i + 1), content: randomBytes(random.IntN(600_000), byte(round+i))}
			r.before = len(r.content)
			if random.IntN(3) > 0 {
				r.before = min(random.IntN(2)*random.IntN(600), len(r.content))
				r.tail = min(random.IntN(2)*random.IntN(5000), len(r.content)-r.before)
				r.offset = int64(random.IntN(1000))
				r.source = openFile(t, append(make([]byte, r.offset), r.content[r.before:]...))
			}
			responses = append(responses, r)
		}
		s.both(func(f *http2.Framer) error { return f.WriteSettings() })
		for len(responses) > 0 {
			// Each handler that writes has its bytes through before it goes on.
			for range 1 + random.IntN(10) {
				i := random.IntN(len(responses))
				r := responses[i]
				n := min(size(), len(r.content))
				ended := false
				switch {
				case len(r.announced) > 0:
					n = min(n, len(r.announced))
					s.file(r.id, r.announced[:n], r.content[:n])
					r.announced = r.announced[n:]
				case s.isSending(r.id):
					continue
				case len(r.content) == 0 && r.id%4 == 1:
					s.both(func(f *http2.Framer) error {
						return f.WriteHeaders(http2.HeadersFrameParam{StreamID: r.id, BlockFragment: []byte("x"), EndStream: true, EndHeaders: true})
					})
					ended = true
				case r.before == 0 && len(r.content) > r.tail:
					r.announced = s.announce(part{
						stream: r.id, at: r.at, file: r.source, offset: r.offset,
						n: min(1+random.IntN(patternLen), len(r.content)-r.tail),
					})
					r.offset += int64(len(r.announced))
					continue
				default:
					if r.before > 0 {
						n = min(n, r.before)
						r.before -= n
					}
					ended = n == len(r.content)
					s.data(r.id, ended, r.content[:n])
				}
				r.content = r.content[n:]
				r.at += int64(n)
				if ended {
					responses = slices.Delete(responses, i, i+1)
				}
				if random.IntN(4) == 0 {
					s.both(func(f *http2.Framer) error { return f.WritePing(false, [8]byte{1, 2}) })
				}
				if len(responses) == 0 {
					break
				}
			}
			must(t, s.flush(size))
			for _, r := range responses {
				if len(r.announced) == 0 && s.isSending(r.id) {
					must(t, s.settle(r.id, nil))
				}
			}
		}
		s.wantWire()
		if len(s.o.streams) > 0 || len(s.o.sending) > 0 || s.wire.inserted.Len() > 0 {
			t.Errorf("%d streams are not forgotten, %d are being sent, %d bytes inserted",
				len(s.o.streams), len(s.o.sending), s.wire.inserted.Len())
		}
		if t.Failed() {
			t.Fatal("in round", round)
		}
	}
}

// What is not as announced ends the connection before a byte of it is sent.
func TestOutboundRefuses(t *testing.T) {
	content := randomBytes(100_000, 1)
	const begin = 512 // of the placeholder
	for _, tt := range []struct {
		name string
		run  func(s *testServer, p []byte)
	}{
		{"other bytes", func(s *testServer, p []byte) {
			changed := bytes.Clone(p)
			changed[len(p)-1] ^= 1
			s.file(1, changed, nil)
		}},
		{"again", func(s *testServer, p []byte) { s.file(1, append(p[:1000:1000], p[:1000]...), nil) }},
		{"on another stream", func(s *testServer, p []byte) { s.file(3, p, nil) }},
		{"at the end of another stream", func(s *testServer, p []byte) {
			must(s.t, s.framer.WriteData(3, true, p))
		}},
		{"too early", func(s *testServer, p []byte) {
			s.announce(part{stream: 3, at: 100, file: openFile(s.t, content), n: 1000})
			s.file(3, s.o.streams[3].placeholder(100, 100), nil)
		}},
		{"on the stream of another file", func(s *testServer, p []byte) {
			s.announce(part{stream: 3, file: openFile(s.t, content), n: len(p)})
			s.file(3, p, nil)
		}},
		{"with bytes that are not", func(s *testServer, p []byte) { s.file(1, append(bytes.Clone(p), 'x'), nil) }},
		{"behind bytes that are not", func(s *testServer, p []byte) {
			s.announce(part{stream: 3, at: 1, file: openFile(s.t, content), n: 1000})
			s.file(3, append([]byte("x"), s.o.streams[3].placeholder(1, 1000)...), nil)
		}},
		{"padded", func(s *testServer, p []byte) {
			must(s.t, s.framer.WriteDataPadded(1, false, p, make([]byte, 3)))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newTestServer(t)
			s.data(1, false, content[:begin])
			must(t, s.flush(whole))
			s.wire.got.Reset()
			tt.run(s, s.announce(part{stream: 1, at: begin, file: openFile(t, content), n: 20_000}))
			for _, n := range []int{5, frameHeaderLen + 1} { // the first bytes come late
				must(t, writeAll(s.o, s.out.Next(n)))
			}
			if err := s.flush(whole); !errors.Is(err, errPlaceholder) {
				t.Errorf("error %v, want %v", err, errPlaceholder)
			}
			if n := s.wire.got.Len(); n > 0 {
				t.Errorf("%d bytes were sent", n)
			}
		})
	}
}

// A part of a body is announced where the body stands, while the stream lasts.
func TestAnnounce(t *testing.T) {
	s := newTestServer(t)
	content := randomBytes(100_000, 1)
	file := openFile(t, content)
	for id := range uint32(6) {
		s.data(2*id+1, false, content[:100])
	}
	s.both(func(f *http2.Framer) error { return f.WriteRSTStream(5, http2.ErrCodeCancel) })
	must(t, s.flush(whole))
	must(t, s.o.reset(3))
	s.announce(part{stream: 7, at: 100, file: file, n: 1000})
	broken := errors.New("broken")
	if err := s.settle(7, broken); !errors.Is(err, broken) {
		t.Error("settled with", err)
	}
	for _, tt := range []struct {
		name string
		part part
		err  error
	}{
		{"where it stands", part{stream: 1, at: 100, file: file, n: 1}, nil},
		{"before", part{stream: 9, at: 99, file: file, n: 1}, errStreamUnknown},
		{"behind bytes that are on their way", part{stream: 9, at: 101, file: file, n: 1}, nil},
		{"reset by the client", part{stream: 3, at: 100, file: file, n: 1}, net.ErrClosed},
		{"reset by the server", part{stream: 5, file: file, n: 1}, nil}, // writing will fail
		{"written in vain before", part{stream: 7, at: 1100, file: file, n: 1}, net.ErrClosed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, p, err := s.o.announce(tt.part); !errors.Is(err, tt.err) || (len(p) == tt.part.n) != (err == nil) {
				t.Errorf("got %d bytes, %v; want %v", len(p), err, tt.err)
			}
		})
	}
	s.o.close(broken)
	if err := s.settle(1, nil); !errors.Is(err, broken) {
		t.Errorf("settled after the end: %v", err)
	}
	if _, _, err := s.o.announce(part{stream: 11, at: 100, file: file, n: 1}); !errors.Is(err, broken) {
		t.Errorf("after the end: %v", err)
	}
	must(t, s.framer.WriteData(9, false, content))
	if err := s.flush(whole); !errors.Is(err, net.ErrClosed) {
		t.Errorf("written after the end: %v", err)
	}
}

// inserted returns how much of the connection's window was given back, and the
// streams that were reset.
func (s *testServer) inserted() (window uint32, resets []uint32) {
	s.t.Helper()
	framer := http2.NewFramer(nil, &s.wire.inserted)
	for {
		switch f, err := framer.ReadFrame(); f := f.(type) {
		case *http2.WindowUpdateFrame:
			window += f.Increment
			if f.StreamID != 0 {
				s.t.Errorf("window of stream %d", f.StreamID)
			}
		case *http2.RSTStreamFrame:
			resets = append(resets, f.StreamID)
		default:
			if !errors.Is(err, io.EOF) {
				s.t.Fatalf("%v, %v", f, err)
			}
			return window, resets
		}
	}
}

// A file that has become too short ends its own stream only, for both sides, and
// gives back what the client will not.
func TestOutboundShortFile(t *testing.T) {
	content := randomBytes(100_000, 1)
	const sent = 20_000
	for _, tt := range []struct {
		name string
		left int64 // of the file
		more int   // that go out
	}{
		{"before the frame", sent, 0},
		{"in the frame", sent + 100, 0},
		{"before the next frame", 40_000, 20_000},
		{"in the next frame", 55_000 - 1, 20_000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := openFile(t, content)
			s := newTestServer(t)
			p := s.announce(part{stream: 1, file: file, n: 60_000})
			s.file(1, p[:sent], content[:sent])
			must(t, s.flush(whole))
			must(t, os.Truncate(file.Name(), tt.left))
			s.both(func(f *http2.Framer) error { return f.WritePing(false, [8]byte{}) })
			must(t, s.framer.WriteData(1, false, p[sent:40_000]))
			must(t, s.framer.WriteData(1, false, p[40_000:55_000]))
			if tt.more > 0 {
				must(t, s.expect.WriteData(1, false, content[sent:sent+tt.more]))
			}
			must(t, s.expect.WriteRSTStream(1, http2.ErrCodeInternal))
			s.data(3, false, []byte("another"))
			// The server does not know yet.
			must(t, s.framer.WriteData(1, false, p[55_000:]))
			must(t, s.framer.WriteData(1, true, nil))
			s.data(3, false, []byte("stream"))
			must(t, s.flush(func() int { return 5000 }))
			s.wantWire()
			if window, resets := s.inserted(); window != uint32(60_000-sent-tt.more) || !slices.Equal(resets, []uint32{1}) {
				t.Errorf("%d bytes are given back, streams %v reset", window, resets)
			}
			if err := s.settle(1, nil); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("settled with %v", err)
			}
		})
	}
}

// What is announced and nobody waits for is dropped and given back. The handler
// goes on at once, or when a part that is being sent has gone out.
func TestOutboundReset(t *testing.T) {
	content := randomBytes(100_000, 1)
	for name, reset := range map[string]func(s *testServer) error{
		"by the client": func(s *testServer) error { return s.o.reset(1) },
		"not taken":     func(s *testServer) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			s := newTestServer(t)
			p := s.announce(part{stream: 1, file: openFile(t, content), n: 60_000})
			s.file(1, p[:20_000], content[:20_000])
			must(t, s.flush(whole))
			must(t, s.framer.WriteData(1, false, p[20_000:30_000]))
			must(t, writeAll(s.o, s.out.Next(5000))) // begun only
			must(t, reset(s))
			if err := s.settle(1, net.ErrClosed); !errors.Is(err, net.ErrClosed) {
				t.Errorf("settled with %v", err)
			}
			must(t, s.framer.WriteData(1, false, p[30_000:35_000]))
			s.data(3, true, []byte("another stream"))
			s.data(1, true, nil)
			must(t, s.flush(whole))
			s.wantWire()
			if window, resets := s.inserted(); window != 15_000 || len(resets) > 0 {
				t.Errorf("%d bytes are given back, streams %v reset", window, resets)
			}
			if len(s.o.streams) > 0 || len(s.o.sending) > 0 {
				t.Errorf("streams %v are left, %v are being sent", s.o.streams, s.o.sending)
			}
		})
	}
	t.Run("by the server", func(t *testing.T) {
		s := newTestServer(t)
		p := s.announce(part{stream: 1, file: openFile(t, content), n: 60_000})
		s.file(1, p[:20_000], content[:20_000])
		s.both(func(f *http2.Framer) error { return f.WriteRSTStream(1, http2.ErrCodeCancel) })
		stream := s.o.streams[1]
		must(t, s.flush(whole))
		s.wantWire()
		if err := s.o.settle(1, stream, nil); !errors.Is(err, net.ErrClosed) || len(s.o.streams) > 0 {
			t.Errorf("settled with %v, streams %v are left", err, s.o.streams)
		}
	})
	t.Run("by the client that has everything", func(t *testing.T) {
		for _, when := range []string{"while it is sent", "afterwards"} {
			s := newTestServer(t)
			p := s.announce(part{stream: 1, file: openFile(t, content), n: 10_000})
			stream := s.o.streams[1]
			if when == "while it is sent" {
				s.wire.sending = func() { must(t, s.o.reset(1)) }
			}
			s.file(1, p, content[:10_000])
			must(t, s.flush(whole))
			must(t, s.o.reset(1))
			if err := s.o.settle(1, stream, nil); err != nil {
				t.Errorf("%s: settled with %v", when, err)
			}
			s.wantWire()
			if _, _, err := s.o.announce(part{stream: 1, at: 10_000, file: openFile(t, content), n: 10_000}); err == nil {
				t.Errorf("%s: the stream goes on", when)
			}
		}
	})
	t.Run("while it is sent", func(t *testing.T) {
		s := newTestServer(t)
		p := s.announce(part{stream: 1, file: openFile(t, content), n: 60_000})
		settled := make(chan error, 1)
		s.wire.sending = func() {
			must(t, s.o.reset(1))
			go func() { settled <- s.settle(1, nil) }()
			select {
			case err := <-settled:
				t.Errorf("settled with %v while the file is being sent", err)
			case <-time.After(50 * time.Millisecond):
			}
		}
		s.file(1, p[:20_000], content[:20_000])
		must(t, s.framer.WriteData(1, false, p[20_000:]))
		must(t, s.flush(whole))
		s.wantWire()
		if window, _ := s.inserted(); window != 40_000 {
			t.Errorf("%d bytes are given back", window)
		}
		if err := <-settled; !errors.Is(err, net.ErrClosed) {
			t.Errorf("settled with %v", err)
		}
	})
}

// However many streams are reset, what is remembered of them is bounded; but
// nothing is forgotten that the server may have buffered.
func TestOutboundLost(t *testing.T) {
	content := randomBytes(1000, 1)
	s := newTestServer(t)
	s.announce(part{stream: 1, file: openFile(t, content), n: 1000})
	_ = s.settle(1, net.ErrClosed)
	for i := range uint32(100 * maxLost) { // nothing has come of them
		must(t, s.o.reset(2*i+3))
	}
	if s.o.streams[1] == nil || len(s.o.lost) > maxLost+1 {
		t.Errorf("known: %v; %d lost streams are remembered", s.o.streams[1] != nil, len(s.o.lost))
	}

	// Each has begun, and is followed by other frames.
	s = newTestServer(t)
	ping := frames(func(f *http2.Framer) error { return f.WritePing(false, [8]byte{}) })
	for id := uint32(1); id < 20_000; id += 2 {
		s.data(id, false, content[:1])
		must(t, s.flush(whole))
		must(t, writeAll(s.o, ping))
		must(t, s.o.reset(id))
	}
	if len(s.o.lost) > maxLost || len(s.o.streams) > maxLost {
		t.Errorf("%d lost streams are remembered, %d altogether", len(s.o.lost), len(s.o.streams))
	}

	// All have begun, and then nothing is written.
	s = newTestServer(t)
	const many = 10 * maxLost
	for i := range uint32(many + 1) {
		s.data(2*i+1, false, content[:1])
	}
	must(t, s.flush(whole))
	for i := range uint32(many) {
		must(t, s.o.reset(2*i+1))
	}
	if len(s.o.streams) != many+1 {
		t.Errorf("%d streams are remembered, want %d", len(s.o.streams), many+1)
	}
	if err := s.o.reset(2*many + 1); !errors.Is(err, errResets) {
		t.Errorf("one more: %v", err)
	}
}

// However the server's bytes are cut, the same goes out.
func FuzzOutbound(f *testing.F) {
	s := newTestServer(f)
	s.both(func(f *http2.Framer) error { return f.WriteSettings() })
	s.data(1, false, []byte("real"))
	f.Add(bytes.Clone(s.out.Bytes()), 3)
	f.Add([]byte("\x00\x00\x01\x00\x00\x00\x00\x00\x03x"), 9)
	f.Add(append([]byte("\x00\x50\x00\x00\x01\x00\x00\x00\x01"), make([]byte, 0x5000)...), 20_000)
	f.Fuzz(func(t *testing.T, stream []byte, cut int) {
		cut = max(0, min(cut, len(stream)))
		written := func(pieces ...[]byte) []byte {
			s := newTestServer(t)
			for _, p := range pieces {
				must(t, writeAll(s.o, p))
			}
			return append(s.wire.got.Bytes(), s.o.partial...)
		}
		whole, parts := written(stream), written(stream[:cut], stream[cut:])
		if !bytes.Equal(whole, parts) {
			t.Errorf("%x is written as %x, and cut at %d as %x", stream, whole, cut, parts)
		}
	})
}

// writeAll writes as Conn does.
func writeAll(o *outbound, p []byte) error {
	rest, err := o.write(p)
	if err == nil {
		err = o.pass(rest)
	}
	return err
}
