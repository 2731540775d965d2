package pagecache

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

const fileLen = 9<<20 + 1000

// newFile returns a file on a disk, of which the kernel can tell what is in memory.
func newFile(t *testing.T) (*os.File, filerange.Segment) {
	t.Helper()
	f := testutil.OpenFile(t, testutil.Body(fileLen))
	if err := peek(int(f.Fd()), 0, unix.RWF_NOWAIT); unknown(err) {
		t.Skip("needs temporary files on a file system that knows RWF_NOWAIT")
	}
	return f, filerange.Segment{File: f, Len: fileLen}
}

// forget drops a part of a file from memory. The length 0 means the rest.
func forget(t *testing.T, f *os.File, offset, n int64) {
	t.Helper()
	testutil.Must(t, f.Sync())
	testutil.Must(t, unix.Fadvise(int(f.Fd()), offset, n, unix.FADV_DONTNEED))
}

// noWait fails the test if somebody waits for a place.
func noWait(t *testing.T) func(<-chan struct{}) error {
	return func(<-chan struct{}) error {
		t.Error("no place is free")
		return nil
	}
}

// atOnce is how much of a part that begins with a stride is ready at once.
func atOnce(part filerange.Segment, most int64) int64 {
	if part.Len < most+stride {
		return part.Len
	}
	return most
}

// What is in memory is ready, and all of it.
func TestHot(t *testing.T) {
	_, part := newFile(t)
	var w Window
	for part.Len > 0 {
		if !w.Ready(part) {
			t.Fatalf("not ready at %d", part.Offset)
		}
		if got, want := w.Len(part), atOnce(part, mostAsked); got != want {
			t.Errorf("%d bytes are ready at %d, want %d", got, part.Offset, want)
		}
		part = part.Rest(w.Len(part))
	}
}

// What is not in memory has to be loaded. Afterwards it is.
func TestCold(t *testing.T) {
	for _, tt := range []struct {
		name        string
		from, bytes int64 // what is not in memory
		ready       int64
	}{
		{"everything", 0, 0, 0},
		{"in the middle", 4 << 20, 2 << 20, 4 << 20},
		{"the end", 8 << 20, 0, 8 << 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, part := newFile(t)
			whole := part
			forget(t, f, tt.from, tt.bytes)
			if resident(whole) {
				t.Skip("the kernel keeps it in memory")
			}
			var w Window
			for part.Len > 0 {
				want := atOnce(part, mostAsked)
				if ready := w.Ready(part); ready != (part.Offset < tt.ready) {
					t.Fatalf("at %d: ready is %v", part.Offset, ready)
				} else if !ready {
					testutil.Must(t, w.Load(part, noWait(t)))
					want = atOnce(part, mostLoaded)
				}
				if got := w.Len(part); got != want {
					t.Errorf("%d bytes are ready at %d, want %d", got, part.Offset, want)
				}
				part = part.Rest(w.Len(part))
			}
			if !resident(whole) {
				t.Error("it is still not in memory")
			}
		})
	}
}

// A file that has become shorter, or can't be read, holds up nobody. Sending it shows what
// is wrong.
func TestFailing(t *testing.T) {
	f, part := newFile(t)
	forget(t, f, 0, 0)
	part.Len *= 2
	var w Window
	for range 100 {
		if part.Len == 0 {
			break
		}
		if !w.Ready(part) {
			testutil.Must(t, w.Load(part, noWait(t)))
		}
		part = part.Rest(w.Len(part))
	}
	if part.Len != 0 {
		t.Errorf("%d bytes are left", part.Len)
	}
	f.Close()
	part = filerange.Segment{File: f, Len: fileLen}
	if w = (Window{}); !w.Ready(part) {
		t.Error("a closed file is not ready")
	}
	testutil.Must(t, new(Window).Load(part, noWait(t)))
}

// A file system in memory is ready, although it can't tell.
func TestInMemory(t *testing.T) {
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	testutil.Must(t, err)
	f := os.NewFile(uintptr(fd), "test")
	defer f.Close()
	testutil.Must(t, f.Truncate(fileLen))
	if part := (filerange.Segment{File: f, Len: fileLen}); !new(Window).Ready(part) {
		t.Error("not ready")
	}
}

// A device has so many places, and no more load of it at a time.
func TestPlaces(t *testing.T) {
	f, part := newFile(t)
	forget(t, f, 0, 0)
	free := placesFor(part)
	for range places {
		select {
		case <-free:
		default:
			t.Fatal("too few places")
		}
	}
	gaveUp := errors.New("gave up")
	if err := new(Window).Load(part, func(<-chan struct{}) error { return gaveUp }); err != gaveUp {
		t.Errorf("Load without a place: %v", err)
	}
	waited := false
	testutil.Must(t, new(Window).Load(part, func(ready <-chan struct{}) error {
		waited = true
		free <- struct{}{}
		<-ready
		return nil
	}))
	if !waited || len(free) != 1 {
		t.Errorf("waited is %v, and %d places are free; want one", waited, len(free))
	}
	for range places - 1 {
		free <- struct{}{}
	}
}

// Whether a file system can tell what is in memory is found out behind the file's end.
func TestBeyond(t *testing.T) {
	f, part := newFile(t)
	testutil.Must(t, peek(int(f.Fd()), beyond, unix.RWF_NOWAIT))
	if placesFor(part) == nil {
		t.Error("the device has no places")
	}
}

// Who asks what is in memory waits for nobody who asks.
func TestAsking(t *testing.T) {
	f, part := newFile(t)
	d := deviceOf(int(f.Fd()))
	for range places {
		<-d.asking
	}
	if new(Window).Ready(part) {
		t.Error("ready, though nobody could ask")
	}
	testutil.Must(t, new(Window).Load(part, noWait(t)))
	for range places {
		d.asking <- struct{}{}
	}
	if !new(Window).Ready(part) || len(d.asking) != places {
		t.Errorf("not ready, or %d places are free", len(d.asking))
	}
}
