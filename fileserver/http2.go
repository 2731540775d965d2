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
	id, at, ok := w.stream.position()
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
		n, byKernel, err = w.conn.outbound.Load().send(part{
			stream: id, at: at + total,
			file: file.File, offset: file.Offset + total, n: int(min(file.Len-total, patternLen)),
		}, w.ResponseWriter)
		total += int64(n)
		w.sent += byKernel
		w.copied += max(int64(n)-byKernel, 0) // a frame may be gone though its write has failed
		reason := w.unmoved()
		switch {
		case errors.Is(err, errStreamUnknown):
			reason, err = ReasonStreamUnknown, nil
		case errors.Is(err, errRefused):
			reason, err = ReasonSendfileRefused, nil
		}
		if reason != ReasonNone && reason != ReasonSendfileRefused {
			w.path = copying
		}
		w.report(reason)
	}
	w.written += total
	return total, errors.Join(err, file.Consume(total))
}

// A serverStream tells of the stream that an HTTP/2 server's writer belongs to
// what is in fields that are not exported. They must be where they are expected.
type serverStream struct{ state, number, written reflect.Value }

// streamOf finds the fields, once for a response.
func streamOf(w http.ResponseWriter) *serverStream {
	v := reflect.ValueOf(w)
	if v.Kind() == reflect.Struct { // from Go 1.27 on, around the server's own
		v = v.FieldByName("ResponseWriter")
	}
	state := field(v, "rws")
	return &serverStream{state, field(field(state, "stream"), "id"), field(state, "wroteBytes")}
}

// position returns the stream's number, and how many bytes of the body the writer
// was given.
func (s *serverStream) position() (id uint32, written int64, ok bool) {
	if s.number.Kind() != reflect.Uint32 || s.written.Kind() != reflect.Int64 || http2Trust.lost.Load() ||
		s.state.IsNil() { // the handler has returned
		return 0, 0, false
	}
	id, written = uint32(s.number.Uint()), s.written.Int()
	return id, written, id%2 == 1 && written >= 0 // streams of clients are odd
}

// pushed reports whether the stream is one that the server has begun: those have
// even numbers.
func (s *serverStream) pushed() bool {
	return s.number.Kind() == reflect.Uint32 && s.number.Uint() > 0 && s.number.Uint()%2 == 0
}

// field returns a field of the struct that v points to, or nothing.
func field(v reflect.Value, name string) reflect.Value {
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return reflect.Value{}
	}
	return v.Elem().FieldByName(name)
}
