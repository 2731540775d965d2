package ktls

import (
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"testing"
)

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
			body := testBody(100_000)
			f := testFile(t, body)
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

			go func() { _, _ = io.Copy(io.Discard, client.NetConn().(*recording).Conn) }()
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
