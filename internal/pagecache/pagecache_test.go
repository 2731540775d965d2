package pagecache

import (
	"os"
	"slices"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
)

// What has to be asked for follows what is known.
func TestNext(t *testing.T) {
	for _, tt := range []struct {
		name               string
		end                int64
		offset, len, ahead int64
		wantFrom, wantLen  int64
	}{
		{"the beginning", 0, 0, 5 << 20, 0, 0, mostAsked},
		{"a short part", 0, 100, 1000, 0, 100, 1000},
		{"a short part with what is ahead", 0, 100, 1000, 1000, 100, 2000},
		{"known", 1 << 20, 0, 5 << 20, 0, 0, 0},
		{"still enough", 1 << 20, 1<<20 - mostLoaded, 5 << 20, 0, 0, 0},
		{"no longer enough", 1 << 20, 1<<20 - mostLoaded + 1, 5 << 20, 0, 1 << 20, mostAsked},
		{"between strides", 0, 521, 5 << 20, 0, 521, mostAsked - 521},
		{"the end is a few bytes away", 0, 521, mostAsked, 0, 521, mostAsked},
		{"the end is a stride away", 0, 0, mostAsked, stride, 0, mostAsked},
		{"the end is known", 1 << 20, 1<<20 - 1000, 900, 100, 0, 0},
		{"the end is not known", 1 << 20, 1<<20 - 1000, 900, 101, 1 << 20, 1},
		{"further on", 1000, 5 << 20, 1 << 20, 0, 5 << 20, 1 << 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := Window{end: tt.end}
			got := w.next(filerange.Segment{Offset: tt.offset, Len: tt.len, Ahead: tt.ahead}, mostAsked)
			if got.Offset != tt.wantFrom || got.Len != tt.wantLen || got.Ahead != 0 {
				t.Errorf("%d bytes from %d on, and %d ahead; want %d from %d on", got.Len, got.Offset, got.Ahead, tt.wantLen, tt.wantFrom)
			}
		})
	}
}

// What does not follow what is known is asked for.
func TestNextBegun(t *testing.T) {
	one, other := new(os.File), new(os.File)
	w := Window{file: one, from: 1 << 20, end: 2 << 20, cold: true}
	for _, tt := range []struct {
		name   string
		file   *os.File
		offset int64
		asked  bool
	}{
		{"in the middle", one, 1<<20 + 1, false},
		{"at the end", one, 2 << 20, true},
		{"behind the end", one, 2<<20 + 1, true},
		{"before the beginning", one, 1<<20 - 1, true},
		{"of another file", other, 1<<20 + 1, true},
	} {
		w := w
		got := w.next(filerange.Segment{File: tt.file, Offset: tt.offset, Len: 1 << 20}, mostAsked)
		if asked := got.Len > 0; asked != tt.asked || asked && got.Offset != tt.offset {
			t.Errorf("%s: %d bytes from %d on", tt.name, got.Len, got.Offset)
		}
		// If it begins anew, nothing had to be loaded yet.
		if w.cold != (tt.name == "in the middle" || tt.name == "at the end") {
			t.Errorf("%s: cold is %v", tt.name, w.cold)
		}
	}
}

// Each stride has a sample: its first byte, or its last one.
func TestSamples(t *testing.T) {
	part := filerange.Segment{Offset: 1000, Len: 2*stride + 10}
	for name, tt := range map[string]struct {
		samples func(filerange.Segment, func(int64) bool)
		want    []int64
	}{
		"firsts": {firsts, []int64{1000, stride, 2 * stride, 1009 + 2*stride}},
		"lasts":  {lasts, []int64{stride - 1, 2*stride - 1, 1009 + 2*stride}},
	} {
		var got []int64
		tt.samples(part, func(offset int64) bool {
			got = append(got, offset)
			return true
		})
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %d, want %d", name, got, tt.want)
		}
		calls := 0
		tt.samples(filerange.Segment{Len: 10 * stride}, func(int64) bool { calls++; return false })
		if calls != 1 {
			t.Errorf("%s: %d calls", name, calls)
		}
	}
}
