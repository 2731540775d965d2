package fileserver

import (
	"errors"
	"net/http"
	"reflect"

	"github.com/caddy-ktls/caddy-ktls/ktls"
)

func (w *writer) http2() bool { return w.request.ProtoMajor == 2 }

// sendFrames sends what is left of a part of a file, but for a short rest, in
// DATA frames of HTTP/2. It moves the reader.
func (w *writer) sendFrames(file ktls.FileRange) (total int64, err error) {
	id, at, ok := streamOf(bottomOf(w.ResponseWriter))
	if !ok { // not any more
		w.path = copying
		w.report(ReasonStreamUnknown)
		return 0, nil
	}
	if at > 0 {
		// What the server has buffered would share a frame with the file.
		err = w.flush()
	}
	for err == nil && w.path == sending && file.Len-total > httpBuffer {
		var n int
		var byKernel int64
		n, byKernel, err = w.conn.outbound.send(part{
			stream: id, at: at + total,
			file: file.File, offset: file.Offset + total, n: int(min(file.Len-total, patternLen)),
		}, w.ResponseWriter)
		total += int64(n)
		w.sent += byKernel
		w.copied += int64(n) - byKernel
		reason := w.unmoved()
		if errors.Is(err, errStreamUnknown) {
			reason, err = ReasonStreamUnknown, nil
		}
		if reason != ReasonNone {
			w.path = copying
		}
		w.report(reason)
	}
	w.written += total
	return total, errors.Join(err, file.Consume(total))
}

// streamOf returns the number of the stream that an HTTP/2 server's writer
// belongs to, and how many bytes of the body it was given. Both are in fields
// that are not exported. They must be where they are expected.
func streamOf(w http.ResponseWriter) (id uint32, written int64, ok bool) {
	state := field(reflect.ValueOf(w), "rws")
	number := field(field(state, "stream"), "id")
	bytes := field(state, "wroteBytes")
	if number.Kind() != reflect.Uint32 || bytes.Kind() != reflect.Int64 || streamsUnknown.Load() {
		return 0, 0, false
	}
	id, written = uint32(number.Uint()), bytes.Int()
	return id, written, id%2 == 1 && written >= 0 // streams of clients are odd
}

// field returns a field of the struct that v points to, or nothing.
func field(v reflect.Value, name string) reflect.Value {
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return reflect.Value{}
	}
	return v.Elem().FieldByName(name)
}
