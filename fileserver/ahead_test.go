package fileserver

import (
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
)

// Nothing is sent ahead that the handler may not send. Nor if the pieces of a placeholder
// would be too short, or the outermost limit is the handler's own, as it is without Caddy's
// idle timeouts.
func TestAhead(t *testing.T) {
	const part, noLength, endless = 64 << 10, -1, 1 << 30
	for _, tt := range []struct {
		name    string
		inParts bool
		len     int64 // what is left of this part
		beyond  int64 // what the reader gives after it
		written int64
		length  int64
		want    int64
	}{
		{"all that follows", true, part, 3*part + 5000, 0, 4*part + 5000, 3*part + 5000},
		{"a byte", true, part, 1, 0, part + 1, 1},
		{"in the middle of a part", true, maxPart + part, 3 * part, 0, endless, 0},
		{"bounded", true, part, 100 * part, 0, 101 * part, maxPart},
		{"Content-Length is less", true, part, 3 * part, part, 3 * part, part},
		{"Content-Length is exhausted", true, part, 3 * part, part, 2 * part, 0},
		{"no Content-Length", true, part, 3 * part, 0, noLength, 0},
		{"nothing follows", true, part, 0, 0, part, 0},
		{"short part", true, 4*httpBuffer - 1, endless, 0, endless, 0},
		{"part", true, 4 * httpBuffer, endless, 0, endless, maxPart},
		{"short end of a part", true, 5000, endless, maxPart, endless, 0},
		{"end of a part", true, 4 * httpBuffer, endless, maxPart, endless, maxPart},
		{"part of the handler's", false, 4 * httpBuffer, endless, 0, endless, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := &http1Body{body: &body{
				inParts: tt.inParts, header: header{lengthKnown: tt.length != noLength, length: tt.length},
				sent: filerange.Sent{Copied: tt.written},
			}}
			file, _ := b.promised(filerange.Range{Len: tt.len, Beyond: tt.beyond})
			if got := b.announcement(file).part.Ahead; got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
}

// If this fails, this version of Caddy takes more work for the same bytes.
func TestTakesMore(t *testing.T) {
	if !takesMore() {
		t.Error("Caddy's idle timeouts have changed")
	}
}
