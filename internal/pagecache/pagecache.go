// Package pagecache finds out whether parts of files are in the kernel's page cache, and
// waits for those that have to come from a disk. So nobody who sends a file waits for the
// disk while others wait for them.
package pagecache

import "github.com/caddy-ktls/caddy-ktls/internal/filerange"

const (
	// mostAsked is how many bytes are asked for at once.
	mostAsked = 1 << 20
	// mostLoaded is how many bytes are loaded at once, and how many behind them are read
	// ahead. Unless a part ends earlier, it is also how many bytes must be known to be there.
	mostLoaded = 256 << 10
	// stride is the distance of the bytes that are asked for: the kernel reads so much at
	// once, by default, and drops it at about the same time.
	stride = 128 << 10
)

// A Window is what is known to be in the page cache of a file that is sent from its
// beginning to its end. What does not follow begins it anew. The zero value knows nothing.
type Window struct {
	file      filerange.File
	from, end int64 // the file's offsets between which everything is there
	cold      bool  // something had to be loaded
}

// Ready reports whether the beginning of a part can be sent without waiting for a disk. It
// does not wait. If it returns false, the caller should call Load.
func (w *Window) Ready(part filerange.Segment) bool {
	next := w.next(part, mostAsked)
	if next.Len == 0 {
		return true
	}
	if w.cold || !resident(next) {
		return false
	}
	w.end = next.Offset + next.Len
	return true
}

// Load has the beginning of a part read, and waits for it. It may first wait for a place,
// by calling wait, which returns nil when it has received from the channel, or an error.
// Load returns only errors of wait: those of a disk show when the file is sent.
func (w *Window) Load(part filerange.Segment, wait func(<-chan struct{}) error) error {
	next := w.next(part, mostLoaded)
	next.Ahead = min(part.Offset+part.Len+part.Ahead-next.Offset-next.Len, mostLoaded)
	w.cold = true
	if err := load(next, wait); err != nil {
		return err
	}
	w.end = next.Offset + next.Len
	return nil
}

// Len returns how many bytes from the beginning of a part are known to be there.
func (w *Window) Len(part filerange.Segment) int64 { return w.end - part.Offset }

// next returns what of a part has to be asked for, most bytes at most. If enough is known,
// its length is 0.
func (w *Window) next(part filerange.Segment, most int64) filerange.Segment {
	if part.File != w.file || part.Offset < w.from || part.Offset > w.end {
		*w = Window{file: part.File, from: part.Offset, end: part.Offset}
	}
	known := w.end - part.Offset
	left := part.Len + part.Ahead
	if known >= min(left, mostLoaded) {
		return filerange.Segment{}
	}
	// Between strides, so that no request of the disk is for a few bytes of one.
	end := (w.end + most) / stride * stride
	if last := part.Offset + left; last-end < stride {
		end = last // what follows would be a few bytes of a stride
	}
	return filerange.Segment{File: part.File, Offset: w.end, Len: end - w.end}
}

// lasts calls f with the offset of the last byte of each stride of a part, until f returns
// false. Strides begin at multiples of their length.
func lasts(part filerange.Segment, f func(offset int64) bool) {
	for at, end := part.Offset, part.Offset+part.Len; at < end; {
		if at = min((at/stride+1)*stride, end); !f(at - 1) {
			return
		}
	}
}

// firsts calls f with the offset of the first byte of each stride of a part, and of the
// part's last byte, until f returns false.
func firsts(part filerange.Segment, f func(offset int64) bool) {
	end := part.Offset + part.Len
	for at := part.Offset; at < end; at = (at/stride + 1) * stride {
		if !f(at) {
			return
		}
	}
	f(end - 1)
}
