package ktls

import (
	"bytes"
	"errors"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// What ReadFrom leaves behind is what reading would leave: offset and limits.
func TestReadFrom(t *testing.T) {
	const size = 300_000
	body := testutil.Body(size)
	for _, tt := range []struct {
		name      string
		kernel    func(*fakeKernel)
		offset    int64
		limits    []int64 // innermost first
		reader    func(*os.File) io.Reader
		want      []byte
		byKernel  bool // with sendfile
		remaining []int64
	}{
		{name: "file", want: body, byKernel: true},
		{name: "offset", offset: 1000, want: body[1000:], byKernel: true},
		{name: "limited", limits: []int64{100_000}, want: body[:100_000], byKernel: true, remaining: []int64{0}},
		{name: "nested", offset: 5, limits: []int64{100_000, 80_000}, want: body[5:80_005], byKernel: true, remaining: []int64{20_000, 0}},
		{name: "limit beyond the end", limits: []int64{size + 7}, want: body, byKernel: true, remaining: []int64{7}},
		{name: "short rounds", kernel: func(k *fakeKernel) { k.MaxFile = 10_001 }, want: body, byKernel: true},
		{name: "sendfile unsupported", kernel: func(k *fakeKernel) { k.noSendFile = true }, limits: []int64{size - 1}, want: body[:size-1], remaining: []int64{0}},
		{name: "small", limits: []int64{100}, want: body[:100], remaining: []int64{0}},
		{name: "nothing", limits: []int64{0}, want: nil, remaining: []int64{0}},
		{name: "no file", reader: func(f *os.File) io.Reader { return struct{ io.Reader }{f} }, want: body},
	} {
		for _, mode := range []mode{onDemand, offloadAll} {
			t.Run(tt.name+"/"+mode.String(), func(t *testing.T) {
				s := newFakeServer(t, serverConfig(), mode, tt.kernel)
				conn, client, k := s.connect(t, clientConfig())
				f := testutil.OpenFile(t, body)
				if _, err := f.Seek(tt.offset, io.SeekStart); err != nil {
					t.Fatal(err)
				}
				var r io.Reader = f
				if tt.reader != nil {
					r = tt.reader(f)
				}
				var limits []*io.LimitedReader
				for _, n := range tt.limits {
					limits = append(limits, &io.LimitedReader{R: r, N: n})
					r = limits[len(limits)-1]
				}
				wait := receiving(t, client, tt.want)
				n, err := conn.ReadFrom(r)
				if n != int64(len(tt.want)) || err != nil {
					t.Errorf("ReadFrom = %d, %v; want %d", n, err, len(tt.want))
				}
				wait()
				if offset, _ := f.Seek(0, io.SeekCurrent); offset != tt.offset+n {
					t.Errorf("offset %d, want %d", offset, tt.offset+n)
				}
				for i, l := range limits {
					if l.N != tt.remaining[i] {
						t.Errorf("limit %d has %d left, want %d", i, l.N, tt.remaining[i])
					}
				}
				proof, sent := 0, len(tt.want)
				if mode == onDemand {
					proof = min(proofLen, sent)
				}
				switch {
				case tt.byKernel:
					k.wantSent(t, sent-proof, sent-proof)
				case conn.State() == Offloaded:
					k.wantSent(t, sent-proof, 0)
				default:
					k.wantSent(t, 0, 0)
				}
				if want := mode == offloadAll || tt.byKernel || tt.kernel != nil; (conn.State() == Offloaded) != want {
					t.Errorf("state %v", conn.State())
				}
				transfer(t, conn, client, testutil.Body(70_000)) // it goes on
			})
		}
	}
}

// Header and file share a record if they fit one, else the file has its own.
func TestSendFile(t *testing.T) {
	for _, tt := range []struct {
		n       int
		records uint64
	}{{10, 1}, {maxPayload - 6, 1}, {maxPayload - 5, 4}, {maxPayload, 4}, {100_000, 9}} {
		body := testutil.Body(tt.n)
		conn, client, k := offloaded(t, nil)
		wait := receiving(t, client, append([]byte("header"), body...))
		f := testutil.OpenFile(t, body)
		if sent, err := conn.SendFile([]byte("header"), filerange.Segment{File: f, Len: int64(tt.n)}); sent != int64(tt.n) || err != nil {
			t.Errorf("SendFile = %d, %v", sent, err)
		}
		wait()
		k.wantSent(t, tt.n+6, tt.n)
		if k.records() != tt.records {
			t.Errorf("%d bytes: %d records, want %d", tt.n, k.records(), tt.records)
		}
	}
}

// What the kernel refuses to send by sendfile(2) can be written, behind a header
// whose record is open as behind any other.
func TestSendFileRefused(t *testing.T) {
	for _, n := range []int{10, 100_000} {
		body := testutil.Body(n)
		conn, client, k := offloaded(t, func(k *fakeKernel) { k.noSendFile = true })
		wait := receiving(t, client, append([]byte("header"), body...))
		sent, err := conn.SendFile([]byte("header"), filerange.Segment{File: testutil.OpenFile(t, body), Len: int64(n)})
		if sent != 0 {
			t.Errorf("%d bytes sent", sent)
		}
		testutil.WantError(t, err, ErrNoSendfile)
		if _, err := conn.Write(body); err != nil {
			t.Error(err)
		}
		wait()
		k.wantSent(t, n+6, 0)
		if k.Open() > 0 {
			t.Error("a record stays open")
		}
	}
}

// A header without a file is a write.
func TestSendFileEmpty(t *testing.T) {
	conn, client, k := offloaded(t, nil)
	wait := receiving(t, client, []byte("header"))
	if sent, err := conn.SendFile([]byte("header"), filerange.Segment{File: testutil.OpenFile(t, nil)}); sent != 0 || err != nil {
		t.Errorf("SendFile = %d, %v", sent, err)
	}
	wait()
	if k.Open() > 0 {
		t.Error("a record stays open")
	}
}

// A file that ends early ends the connection, without close_notify: what was
// sent must not look complete.
func TestSendFileShort(t *testing.T) {
	s := newFakeServer(t, serverConfig(), offloadAll, nil)
	conn, p, _ := s.connectPeer(t)
	done := make(chan error, 1)
	go func() { _, err := io.Copy(io.Discard, p); done <- err }()
	sent, err := conn.SendFile(nil, filerange.Segment{File: testutil.OpenFile(t, testutil.Body(70_000)), Len: 80_000})
	if sent != 70_000 {
		t.Errorf("%d bytes sent", sent)
	}
	testutil.WantError(t, err, io.ErrUnexpectedEOF)
	_, err = conn.Write([]byte("more"))
	testutil.WantError(t, err, io.ErrUnexpectedEOF)
	conn.Close()
	testutil.WantError(t, <-done, io.ErrUnexpectedEOF)
}

func TestSendFileNotOffloaded(t *testing.T) {
	s := newFakeServer(t, serverConfig(), onDemand, nil)
	conn, client, _ := s.connect(t, clientConfig())
	_, err := conn.SendFile([]byte("x"), filerange.Segment{File: testutil.OpenFile(t, testutil.Body(10)), Len: 10})
	testutil.WantError(t, err, errNotOffloaded)
	transfer(t, conn, client, testutil.Body(70_000))
}

// brokenFile can't be read.
type brokenFile struct{ *os.File }

var errBroken = errors.New("broken")

func (brokenFile) ReadAt([]byte, int64) (int, error) { return 0, errBroken }

// A file that can't be read to close an open record ends the connection.
func TestSendFileReadError(t *testing.T) {
	conn, p, k := offloaded(t, func(k *fakeKernel) { k.MaxFile = 5 * maxPayload / 2 })
	go func() { _, _ = io.Copy(io.Discard, p) }()
	conn.renewal.at = k.records() + 1
	f := brokenFile{testutil.OpenFile(t, testutil.Body(100_000))}
	_, err := conn.SendFile(nil, filerange.Segment{File: f, Len: 100_000})
	testutil.WantError(t, err, errBroken)
	_, err = conn.Write(bytes.Repeat([]byte("x"), 10))
	testutil.WantError(t, err, errBroken)
}

// What goes ahead may end in a record that is open. Close sends no close_notify into it.
func TestSendFileAhead(t *testing.T) {
	conn, p, k := offloaded(t, func(k *fakeKernel) { k.MaxFile = 15_000 })
	go func() { _, _ = io.Copy(io.Discard, p) }()
	noFirstRecords(conn)
	part := filerange.Segment{File: testutil.OpenFile(t, testutil.Body(50_000)), Len: 10_000, Ahead: 20_000}
	if n, err := conn.SendFile([]byte("header"), part); n != 15_000 || err != nil {
		t.Errorf("%d bytes sent, %v; want 5,000 ahead", n, err)
	}
	if !conn.out.open {
		t.Error("the last record is taken for closed")
	}
	conn.Close()
	for _, c := range k.controls {
		if c.typ == recordAlert {
			t.Error("close_notify follows a part of a file")
		}
	}
}

// A file that has become shorter than what is to prove the number has an end, which
// is no error.
func TestShortProof(t *testing.T) {
	s := newFakeServer(t, serverConfig(), onDemand, nil)
	conn, client, _ := s.connect(t, clientConfig())
	body := testutil.Body(proofLen - 1)
	wait := receiving(t, client, body)
	if n, err := conn.writeProof(testutil.OpenFile(t, body)); n != proofLen-1 || err != nil {
		t.Errorf("writeProof = %d, %v", n, err)
	}
	wait()
}

// What is copied takes no new buffer for each response, as in net/http.
func TestReadFromBuffers(t *testing.T) {
	for _, tt := range []struct {
		name   string
		reader func(f *os.File) io.Reader
	}{
		{"file", func(f *os.File) io.Reader { return f }},
		{"part of a file", func(f *os.File) io.Reader { return io.LimitReader(f, 100_000) }},
		{"something else", func(f *os.File) io.Reader { return struct{ io.Reader }{f} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newFakeServer(t, serverConfig(), onDemand, nil)
			s.support = Support{}
			conn, client, _ := s.connect(t, clientConfig())
			body := testutil.Body(100_000)
			f := testutil.OpenFile(t, body)
			send := func(readFrom func(io.Reader) (int64, error)) {
				if _, err := f.Seek(0, io.SeekStart); err != nil {
					t.Fatal(err)
				}
				if n, err := readFrom(tt.reader(f)); n != int64(len(body)) || err != nil {
					t.Fatalf("ReadFrom = %d, %v", n, err)
				}
			}
			wait := receiving(t, client, body)
			send(conn.ReadFrom)
			wait()

			go func() { _, _ = io.Copy(io.Discard, client.NetConn().(*testutil.Recording).Conn) }()
			defer debug.SetGCPercent(debug.SetGCPercent(-1)) // it takes the buffers away
			allocated := func(readFrom func(io.Reader) (int64, error)) int64 {
				const rounds = 100
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				for range rounds {
					send(readFrom)
				}
				runtime.ReadMemStats(&after)
				return int64(after.TotalAlloc-before.TotalAlloc) / rounds
			}
			buf := make([]byte, 32<<10)
			stock := allocated(func(r io.Reader) (int64, error) {
				return io.CopyBuffer(writerOnly{conn.tls}, struct{ io.Reader }{r}, buf)
			})
			// Under the race detector sync.Pool loses one buffer of four.
			if ours := allocated(conn.ReadFrom); ours > stock+(20<<10) {
				t.Errorf("%d bytes allocated for a response, by crypto/tls alone %d", ours, stock)
			}
		})
	}
}
