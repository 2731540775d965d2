package filerange

import (
	"io"
	"os"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// embedder reads something else than the file in it.
type embedder struct{ *os.File }

func (embedder) Read([]byte) (int, error) { return 0, io.EOF }

// readerSpy remembers what io.Copy hands to ReadFrom.
type readerSpy struct {
	io.Writer
	got io.Reader
}

func (s *readerSpy) Write(p []byte) (int, error)               { return len(p), nil }
func (s *readerSpy) ReadFrom(r io.Reader) (n int64, err error) { s.got = r; return 0, nil }

func TestOf(t *testing.T) {
	f := testutil.OpenFile(t, make([]byte, 1000))
	if _, err := f.Seek(100, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	folder, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	pipe, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	defer w.Close()
	closed := testutil.OpenFile(t, nil)
	closed.Close()
	end := testutil.OpenFile(t, make([]byte, 10))
	_, _ = end.Seek(20, io.SeekStart)
	// What io.Copy makes of a file: its WriteTo hides itself.
	spy := &readerSpy{}
	if _, err := io.Copy(spy, f); err != nil {
		t.Fatal(err)
	}

	for _, tt := range []struct {
		name string
		r    io.Reader
		n    int64
		ok   bool
	}{
		{"file", f, 900, true},
		{"file by io.Copy", spy.got, 900, true},
		{"limited", io.LimitReader(f, 300), 300, true},
		{"limit beyond the end", io.LimitReader(f, 3000), 900, true},
		{"limits, inner smaller", io.LimitReader(io.LimitReader(f, 200), 300), 200, true},
		{"limits, outer smaller", io.LimitReader(io.LimitReader(f, 300), 200), 200, true},
		{"no limit left", io.LimitReader(f, 0), 0, true},
		{"negative limit", io.LimitReader(f, -1), 0, true},
		{"offset beyond the end", end, 0, true},
		{"embedded file", embedder{f}, 0, false},
		{"folder", folder, 0, false},
		{"pipe", pipe, 0, false},
		{"closed file", closed, 0, false},
		{"no file", strings.NewReader("x"), 0, false},
		{"nil", nil, 0, false},
		{"limited nil", io.LimitReader(nil, 5), 0, false},
		{"nil file", (*os.File)(nil), 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file, ok := Of(tt.r)
			if file.Len != tt.n || ok != tt.ok {
				t.Errorf("Of: %d bytes, %v; want %d, %v", file.Len, ok, tt.n, tt.ok)
			}
		})
	}
	if offset, _ := f.Seek(0, io.SeekCurrent); offset != 100 {
		t.Errorf("Of moved the offset to %d", offset)
	}
}

func TestRest(t *testing.T) {
	whole := Segment{Offset: 100, Len: 50, Ahead: 20}
	for _, tt := range []struct {
		sent int64
		want Segment
	}{
		{0, whole},
		{30, Segment{Offset: 130, Len: 20, Ahead: 20}},
		{50, Segment{Offset: 150, Len: 0, Ahead: 20}},
		{60, Segment{Offset: 160, Len: 0, Ahead: 10}},
		{70, Segment{Offset: 170}},
	} {
		if got := whole.Rest(tt.sent); got != tt.want {
			t.Errorf("after %d bytes: %+v, want %+v", tt.sent, got, tt.want)
		}
	}
}
