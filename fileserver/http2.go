package fileserver

import (
	"errors"
	"io"
	"net/http"
	"reflect"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/internal/http2body"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// Over HTTP/2 package http2body sends large bodies: files by sendfile(2), and what
// else has a known length from memory. The beginning of each body passes the HTTP/2
// server, with the header.

// A wire is the http2body.Wire of a connection.
type wire struct{ *conn }

func (w wire) Read(p []byte) (int, error)        { return w.tls.Read(p) }
func (w wire) Write(p []byte) (int, error)       { return w.tls.Write(p) }
func (w wire) SetReadDeadline(t time.Time) error { return w.tls.SetReadDeadline(t) }
func (w wire) Cork(on bool)                      { w.tls.Cork(on) }
func (w wire) Abort()                            { _ = w.tls.NetConn().Close() }

func (w wire) SendFrames(header []byte, part filerange.Segment, payload int64) (sent filerange.Sent, err error) {
	sent.Sendfile, err = w.tls.SendFrames(header, part, payload)
	w.server.countSent(sent.Sendfile)
	if !errors.Is(err, ktls.ErrNoSendfile) {
		return sent, err
	}
	// The header of a frame is out.
	for rest := part.Rest(sent.Sendfile); ; {
		frame := rest
		frame.Len -= (rest.Len - 1) / payload * payload
		n, err := frame.CopyTo(w.tls)
		sent.Copied += n
		if rest = rest.Rest(n); err != nil || rest.Len == 0 {
			return sent, err
		}
		if _, err := w.tls.Write(header); err != nil {
			return sent, err
		}
	}
}

func (w *writer) http2() bool { return w.request.ProtoMajor == 2 }

// framing reports whether what is written goes out in frames of http2body. A body with
// a known length is decided on with its first bytes.
func (w *writer) framing() bool {
	if !w.http2() {
		return false
	}
	if w.path == undecided && w.lengthKnown {
		w.decide(w.length)
	}
	return w.path == sending
}

// readFrames is ReadFrom over HTTP/2.
func (w *writer) readFrames(r io.Reader) (total int64, err error) {
	file, isFile := filerange.Of(r)
	switch {
	case w.path != undecided:
	case w.lengthKnown:
		w.decide(w.length)
	case isFile:
		w.decide(file.Len + file.Beyond)
	default:
		return w.copy(r)
	}
	if isFile && w.path == sending {
		if w.lengthKnown {
			file = limited(file, w.length-w.written)
		}
		if w.shorter(file) {
			w.tooShort()
		}
	}
	if w.path == sending && !w.taken {
		n := int64(sniffLen)
		if isFile {
			n = http2body.Beginning(file.Offset, n)
		}
		total, err = w.beginFrames(r, n)
		if isFile && err == nil && total < min(file.Len, n) {
			w.tooShort()
		}
		if err != nil || !w.taken && w.path == sending {
			return total, err
		}
		file.Offset += total
		file.Len -= total
	}
	if w.path == copying {
		if isFile && w.obstructed != ReasonNone {
			w.report(w.obstructed)
		}
		n, err := w.copy(r)
		return total + n, err
	}
	if isFile && file.Len > 0 && !w.noSendfile {
		n, err := w.sendFrames(file)
		if total += n; err != nil {
			return total, err
		}
		if limited, ok := r.(*io.LimitedReader); ok && limited.N <= 0 {
			return total, nil
		}
	}
	n, err := filerange.CopyPooled(framesWriter{w}, r)
	w.next += n
	return total + n, err
}

// A framesWriter hides a writer's ReadFrom.
type framesWriter struct{ w *writer }

func (f framesWriter) Write(p []byte) (int, error) { return f.w.writeFrames(p) }

// beginFrames has the server send the first n bytes of a body, and takes over the
// stream if there is more.
func (w *writer) beginFrames(r io.Reader, n int64) (int64, error) {
	w.conn.tls.Offload()
	total, err := w.copyN(r, n)
	w.next += total
	if err == nil && total == n && !w.complete() {
		err = w.takeOver()
	}
	return total, err
}

// complete reports whether all of the body has been written.
func (w *writer) complete() bool { return w.lengthKnown && w.written >= w.length }

// takeOver takes over the stream, when the connection is offloaded: the beginning of
// the body has proved the sequence number. If it can't be, the body is copied.
func (w *writer) takeOver() error {
	err := w.stream.Settle(bottomOf(w.ResponseWriter), w.written)
	switch state := w.conn.tls.State(); {
	case errors.Is(err, http2body.ErrMismatch): // somebody has written past this writer
		w.path, w.obstructed = copying, ReasonStreamUnknown
	case err != nil:
		return err
	case state != ktls.Offloaded:
		w.path, w.obstructed = copying, reasonOf(state)
		w.conn.frames.Load().Release()
	default:
		w.stream.Take()
		w.taken = true
		w.ownDeadline()
	}
	return nil
}

// sendFrames sends a part of a file, and moves the reader.
func (w *writer) sendFrames(file filerange.Range) (int64, error) {
	sent, err := w.stream.SendFile(file.Segment(w.aheadFrames(file)))
	if errors.Is(err, http2body.ErrShort) {
		w.tooShort()
	}
	total := sent.Total()
	w.tellRecorders(total)
	w.written += total
	w.next += total
	w.sent = w.sent.Add(sent)
	w.noSendfile = sent.Copied > 0
	if w.noSendfile {
		w.report(ReasonSendfileRefused)
	} else {
		w.report(ReasonNone)
	}
	if err != nil {
		w.failed(err)
	}
	return total, errors.Join(err, file.Consume(total))
}

// tooShort ends a response whose file has become shorter. The server resets the
// stream: after an error it would end it as if it were whole.
func (w *writer) tooShort() {
	w.failed(io.ErrUnexpectedEOF)
	panic(http.ErrAbortHandler)
}

// maxFrames bounds a part of a file and what goes ahead: a number of whole frames, of
// about 4 MiB.
const maxFrames = 256 * http2body.FilePayload

// aheadFrames is what ahead is over HTTP/1.1.
func (w *writer) aheadFrames(file filerange.Range) int64 {
	if w.above.ResponseWriter == nil || !w.lengthKnown || !takesMore() {
		return 0
	}
	return max(min(file.Beyond, maxFrames-file.Len), 0)
}

// writeFrames writes bytes of a body that is sent in frames.
func (w *writer) writeFrames(p []byte) (total int, err error) {
	if w.lengthKnown && w.written+int64(len(p)) > w.length {
		return 0, http.ErrContentLength
	}
	if !w.taken {
		w.conn.tls.Offload()
		total, err = w.writeServer(p[:min(len(p), sniffLen)])
		if err == nil && total > 0 && !w.complete() && (w.typed || w.written >= sniffLen) {
			err = w.takeOver()
		}
		if p = p[total:]; err != nil || len(p) == 0 {
			return total, err
		}
		if w.path == copying {
			n, err := w.writeServer(p)
			return total + n, err
		}
	}
	end := !w.lengthKnown || w.written+int64(len(p)) >= w.length
	n, err := w.stream.Write(p, end)
	w.tellRecorders(int64(n))
	w.written += int64(n)
	w.sent.Copied += int64(n)
	return total + n, err
}

// tellRecorders has Caddy's recorders below, which tell the access log how long the
// body is, count bytes that do not pass them. With idle timeouts they are above.
func (w *writer) tellRecorders(n int64) {
	if below, ok := w.ResponseWriter.(io.ReaderFrom); ok && w.above.ResponseWriter == nil {
		_, _ = below.ReadFrom(sentAlready(n))
	}
}

// A sentAlready is a reader whose bytes need not be written.
type sentAlready int64

func (sentAlready) Read([]byte) (int, error)           { return 0, io.EOF }
func (n sentAlready) WriteTo(io.Writer) (int64, error) { return int64(n), nil }

// streamID returns the number of the stream that an HTTP/2 server's writer belongs
// to, 0 if it is not known. The server tells it in fields that are not exported. They
// must be where they are expected.
func streamID(w http.ResponseWriter) uint32 {
	v := reflect.ValueOf(w)
	if v.Kind() == reflect.Struct { // from Go 1.27 on, around the server's own
		v = v.FieldByName("ResponseWriter")
	}
	number := field(field(field(v, "rws"), "stream"), "id")
	if number.Kind() != reflect.Uint32 {
		return 0
	}
	return uint32(number.Uint())
}

// field returns a field of the struct that v points to, or nothing.
func field(v reflect.Value, name string) reflect.Value {
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return reflect.Value{}
	}
	return v.Elem().FieldByName(name)
}
