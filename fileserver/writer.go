package fileserver

import (
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/internal/http2body"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// DefaultMinSize is the length of a body, in bytes, from which on it goes out by
// sendfile(2) if nothing else is asked for. From there on it takes fewer
// instructions, over both protocols. Over HTTP/1.1 a body of 64 KiB takes 1.05 times
// as many as without; over HTTP/2 one of 16 KiB takes 0.90 times as many.
const DefaultMinSize = 128 << 10

// Options say what to do with the bodies of a route.
type Options struct {
	// MinSize is the least length of a body, in bytes, that goes out by
	// sendfile(2) and makes a connection be offloaded.
	MinSize int64

	// Sending, if not nil, is called once for each response whose body is a
	// file of at least MinSize. The reason is ReasonNone if it goes out by
	// sendfile(2), else it says why the body is copied.
	Sending func(r *http.Request, reason Reason)

	// Failed, if not nil, is called when a body could not be sent whole.
	Failed func(r *http.Request, err error)
}

// A Reason says why the body of a file is copied. The words are few and fixed.
// Where the connection is the reason, it is the word of its [ktls.State].
type Reason string

// The reasons of responses.
const (
	// ReasonNone: the body goes out by sendfile(2).
	ReasonNone Reason = ""
	// ReasonNotOffloadable: the connection is none that Listener has made:
	// HTTP/3, or not TCP.
	ReasonNotOffloadable Reason = "not_offloadable"
	// ReasonStreamUnknown: over HTTP/2, and the stream could not be found
	// out.
	ReasonStreamUnknown Reason = "stream_unknown"
	// ReasonPushed: over HTTP/2, and the server has pushed the response, which
	// the client didn't ask for.
	ReasonPushed Reason = "pushed"
	// ReasonPathUnknown: over HTTP/1.1, and what is between the handler and the
	// connection does not hand on what it should.
	ReasonPathUnknown Reason = "path_unknown"
	// ReasonWriterWrapped: something that may alter the body stands between
	// the writer and net/http.
	ReasonWriterWrapped Reason = "writer_wrapped"
	// ReasonChunked: the body's length is not known in advance.
	ReasonChunked Reason = "chunked"
	// ReasonSendfileRefused: the kernel refuses to send the file, since the
	// file system can't or a sandbox forbids it.
	ReasonSendfileRefused Reason = "sendfile_refused"
	// ReasonNoBody: HEAD, or a status without a body.
	ReasonNoBody Reason = "no_body"
	// ReasonSmall: the body is shorter than MinSize.
	ReasonSmall Reason = "small"
	// ReasonNotAFile: the body is not copied from a file, or in parts that
	// are too short.
	ReasonNotAFile Reason = "not_a_file"
)

// Reasons returns all reasons but ReasonNone and those of connections.
func Reasons() []Reason {
	return []Reason{
		ReasonNotOffloadable, ReasonStreamUnknown, ReasonPushed, ReasonPathUnknown, ReasonWriterWrapped,
		ReasonChunked, ReasonSendfileRefused, ReasonNoBody, ReasonSmall, ReasonNotAFile,
	}
}

// reasonOf returns the reason for which a body is copied if the state of its connection
// is final and not Offloaded.
func reasonOf(state ktls.State) Reason { return Reason(state.String()) }

// httpBuffer is the size of net/http's buffer for a connection: only a longer
// write is handed down unchanged.
const httpBuffer = 4 << 10

// sniffLen is how much of a body net/http looks at for the Content-Type.
const sniffLen = 512

// A writer is an http.ResponseWriter at the bottom of Caddy's chain, just above
// net/http's: what reaches it goes on the wire as it is. Everything passes
// through but the copying of a file.
type writer struct {
	caddyhttp.ResponseWriterWrapper
	Response

	above   caddyhttp.ResponseWriterWrapper // leads an IdleTimeoutWriter to this writer
	request *http.Request
	options *Options

	status      int
	final       bool  // see fixHeader
	typed       bool  // the Content-Type was known with the status: nobody need look at the body
	lengthKnown bool  // there is a Content-Length
	length      int64 // which it is
	encoded     bool  // there is a Transfer-Encoding
	written     int64 // bytes of the body
	path        path
	begun       bool   // see begin
	flushed     bool   // net/http holds nothing of the response
	obstructed  Reason // why the path is copying, if the body is worth another

	// Over HTTP/2, when the path is sending.
	stream     *http2body.Stream
	taken      bool // from the server
	noSendfile bool // the kernel refuses the file
	deadline   writeDeadline

	// The file that was copied from last, up to where, and up to where it
	// was to be copied.
	file      filerange.File
	next, end int64
}

// A Response tells how the body of a response goes out, as far as is known.
type Response struct {
	writer   *writer // whose response it is
	conn     *conn   // nil if the request came over none
	reason   Reason
	reported bool // see report
	small    bool
	sent     filerange.Sent
}

// Offload returns why the response's connection is or is not offloaded; false if
// it is none that can be.
func (r *Response) Offload() (ktls.State, bool) {
	if r.conn == nil {
		return 0, false
	}
	return r.conn.tls.State(), true
}

// Reason returns why the body is copied, ReasonNone if it goes out by
// sendfile(2).
func (r *Response) Reason() Reason {
	switch {
	case r.reported:
		return r.reason
	case r.small:
		return ReasonSmall
	}
	return ReasonNotAFile
}

// Eligible reports whether the body is a file of at least MinSize, so that
// [Options].Sending has been called.
func (r *Response) Eligible() bool { return r.reported }

// Sent returns how many bytes of the body have gone out by sendfile(2).
func (r *Response) Sent() int64 { return r.sent.Sendfile }

// Copied returns how many bytes of the body have gone out in another way.
func (r *Response) Copied() int64 { return r.sent.Copied }

// A path is how a body goes out.
type path uint8

const (
	undecided path = iota
	copying
	sending // by sendfile(2)
)

// WriteHeader implements http.ResponseWriter.
func (w *writer) WriteHeader(status int) {
	if w.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.status = status
		if status == http.StatusRequestEntityTooLarge {
			w.refuseBody()
		}
		_, w.typed = w.Header()["Content-Type"]
		w.typed = w.typed || w.Header().Get("Content-Encoding") != ""
		w.fixHeader()
	}
	w.ResponseWriterWrapper.WriteHeader(status)
}

// fixHeader notes what the header says of the body's length when net/http takes
// the header: with the status, the first bytes, or a flush. What a handler changes
// later has no effect.
func (w *writer) fixHeader() {
	if w.final {
		return
	}
	w.final = true
	w.length, w.lengthKnown = contentLength(w.Header())
	w.encoded = len(w.Header()["Transfer-Encoding"]) > 0
}

// Write implements http.ResponseWriter.
func (w *writer) Write(p []byte) (int, error) {
	w.fixHeader()
	if w.framing() {
		return w.writeFrames(p)
	}
	return w.writeServer(p)
}

func (w *writer) writeServer(p []byte) (int, error) {
	n, err := w.ResponseWriterWrapper.Write(p)
	w.wrote(int64(n))
	return n, err
}

// FlushError is what an http.ResponseController flushes by.
func (w *writer) FlushError() error {
	w.fixHeader()
	if w.taken {
		return w.stream.Flush()
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// wrote counts bytes of the body that net/http has got, and perhaps still has.
func (w *writer) wrote(n int64) {
	w.written += n
	w.sent.Copied += n
	w.flushed = w.flushed && n == 0
}

// ReadFrom implements io.ReaderFrom. io.Copy, and so http.ServeContent, calls
// it with the file, which Caddy hands on in parts.
func (w *writer) ReadFrom(r io.Reader) (total int64, err error) {
	w.fixHeader()
	if w.http2() {
		return w.readFrames(r)
	}
	w.small = w.small || w.lengthKnown && w.length < w.options.MinSize
	if w.path == copying || w.small {
		return w.copy(r)
	}
	file, ok := filerange.Of(r)
	if !ok {
		return w.copy(r)
	}
	if w.path == undecided {
		length := w.length
		if !w.lengthKnown {
			length = file.Len + file.Beyond
		}
		w.decide(length)
		if w.obstructed != ReasonNone {
			w.report(w.obstructed)
		}
	}
	if w.path == sending {
		if w.lengthKnown { // net/http takes no more, so nobody is promised more
			file = limited(file, w.length-w.written)
		}
		if w.shorter(file) {
			w.failed(io.ErrUnexpectedEOF)
			return 0, io.ErrUnexpectedEOF
		}
		total, err = w.sendFile(file, r)
		if err != nil {
			return total, err
		}
	}
	if limited, ok := r.(*io.LimitedReader); ok && limited.N <= 0 {
		return total, nil
	}
	// The rest is short, or there is none. Of what exceeds the Content-Length
	// net/http takes nothing, and closes the connection when the handler has
	// returned; what does not exceed it must not be in the same write.
	if left := w.length - w.written; w.path == sending && w.lengthKnown && left > 0 {
		n, err := w.copyN(r, left)
		w.next += n
		total += n
		if err != nil || n < left {
			return total, err
		}
	}
	n, err := w.copy(r)
	w.next += n
	return total + n, err
}

// limited returns a file of which only n bytes are to be sent.
func limited(file filerange.Range, n int64) filerange.Range {
	n = max(n, 0)
	file.Len = min(file.Len, n)
	file.Beyond = min(file.Beyond, n-file.Len)
	return file
}

// shorter reports whether a file of which a part was copied has lost some of
// what was still to come. Without Caddy's idle timeouts above, what is beyond is
// not known to come.
func (w *writer) shorter(file filerange.Range) bool {
	end := file.Offset + file.Len
	if w.above.ResponseWriter != nil {
		end += file.Beyond
	}
	if w.file == file.File && w.next == file.Offset && file.Size < w.end {
		return true
	}
	w.file, w.next, w.end = file.File, file.Offset, end
	return false
}

// sendFile sends what it can of a part of a file by sendfile(2), perhaps after
// some bytes through net/http, and moves the reader.
func (w *writer) sendFile(file filerange.Range, r io.Reader) (total int64, err error) {
	if file.Len <= httpBuffer {
		return 0, nil
	}
	if !w.begun {
		w.begun = true
		total, err = w.begin(r, file.Len)
		file.Offset += total
		file.Len -= total
	}
	if err == nil && w.path == sending && file.Len > httpBuffer {
		var sent int64
		if sent, err = w.send(file); err != nil {
			w.failed(err)
		}
		total += sent
	}
	w.next += total
	return total, err
}

// copy copies as net/http does. The HTTP/2 server leaves that to io.Copy, whose
// buffer is by far the most memory that a small response takes; a writer of Caddy's
// below would call that too, and the WriteTo of a file has one of its own.
func (w *writer) copy(r io.Reader) (n int64, err error) {
	if below, ok := w.ResponseWriter.(io.ReaderFrom); ok && !w.http2() {
		n, err = below.ReadFrom(r)
	} else {
		n, err = filerange.CopyPooled(struct{ io.Writer }{w.ResponseWriter}, r)
	}
	w.wrote(n)
	return n, err
}

// copyN copies n bytes, fewer if there are no more.
func (w *writer) copyN(r io.Reader, n int64) (int64, error) {
	return w.copy(io.LimitReader(r, n))
}

// decide settles, once for the response, how a body of a length goes out.
func (w *writer) decide(length int64) {
	w.path = copying
	if w.small = length < w.options.MinSize; w.small {
		return
	}
	if w.obstructed = w.obstacle(); w.obstructed == ReasonNone {
		w.path = sending
	}
}

// obstacle returns why the body has to be copied.
func (w *writer) obstacle() Reason {
	bottom := bottomOf(w.ResponseWriter)
	switch {
	case w.conn == nil:
		return ReasonNotOffloadable
	case !w.http2() && http1Trust.lost.Load():
		return ReasonPathUnknown
	case w.http2() && http2Trust.lost.Load():
		return ReasonStreamUnknown
	case bottom == nil:
		return ReasonWriterWrapped
	case originalMethod(w.request) == http.MethodHead || !bodyAllowed(w.status):
		return ReasonNoBody
	case w.http2():
		id := streamID(bottom)
		if id > 0 && id%2 == 0 { // the server's own streams have even numbers
			return ReasonPushed
		}
		var err error
		w.stream, err = w.conn.frames.Load().Stream(id)
		switch {
		case errors.Is(err, http2body.ErrUnknown):
			return ReasonStreamUnknown
		case err != nil: // the client has reset it
			return reasonOf(ktls.Closing)
		}
	case w.encoded, !w.lengthKnown && w.request.ProtoAtLeast(1, 1):
		return ReasonChunked
	}
	reason := w.unmoved()
	if reason != ReasonNone && w.http2() {
		w.conn.frames.Load().Release()
	}
	return reason
}

// unmoved returns why the connection can't be offloaded. It may not be yet.
func (w *writer) unmoved() Reason {
	if state := w.conn.tls.State(); state != ktls.Offloaded && state != ktls.NotNeeded {
		return reasonOf(state)
	}
	return ReasonNone
}

// begin gets the connection offloaded if it is not yet: it sends the header,
// whose record proves the sequence number, and of a part of n bytes what
// net/http wants to see.
func (w *writer) begin(r io.Reader, n int64) (total int64, err error) {
	if !w.typed {
		if total, err = w.copyN(r, sniffLen); err != nil {
			return total, err
		}
	}
	if w.conn.tls.State() == ktls.Offloaded {
		return total, nil // the header waits for the file
	}
	w.conn.tls.Offload()
	if err := w.flush(); err != nil {
		return total, err
	}
	if w.conn.tls.State() == ktls.NotNeeded {
		// The header had been sent before: a piece of the body serves.
		m, err := w.copyN(r, min(2*httpBuffer, n-total))
		total += m
		if err != nil {
			return total, err
		}
	}
	if state := w.conn.tls.State(); state != ktls.Offloaded {
		w.path = copying
		w.report(reasonOf(state))
	}
	return total, nil
}

// send sends what is left of a part of a file, more than httpBuffer, and perhaps
// what follows. It moves the reader.
func (w *writer) send(file filerange.Range) (total int64, err error) {
	for err == nil && total < file.Len && (total == 0 || file.Len-total > httpBuffer) {
		if http1Trust.lost.Load() { // since the response has begun
			w.path = copying
			w.report(ReasonPathUnknown)
			break
		}
		n := min(file.Len-total, maxPart)
		part := filerange.Segment{File: file.File, Offset: file.Offset + total, Len: n, Ahead: w.ahead(file, total, n)}
		first := n
		if part.Ahead > 0 {
			// Only when the part has gone out is known how long the
			// placeholder is to be.
			first = n / 2
		}
		var sent filerange.Sent
		sent, err = w.sendPart(announcement{part: part, first: first})
		total += sent.Total()
		w.sent = w.sent.Add(sent)
		reason := ReasonNone
		if sent.Copied > 0 {
			reason = ReasonSendfileRefused
		}
		w.report(reason)
	}
	w.written += total
	if moveErr := file.Consume(total); err == nil {
		err = moveErr
	}
	return total, err
}

// ahead returns how much of a file may be sent beyond the n bytes of a part that
// come behind the first done ones. Caddy hands on a body in parts of one length,
// each with a write deadline of its own. A part waits only for its own bytes, so the
// deadlines mean what they mean without us; what follows goes along if the socket
// takes it at once, which saves the work for the next parts.
//
// No more is sent than the handler is bound to send, which it has told by the
// Content-Length and by what it copies. Nothing is sent ahead without Caddy's idle
// timeouts above, as the outermost limit of a reader is the handler's own then. Nor
// if half of the n bytes, for which the first piece of the placeholder stands, are
// so few that net/http would copy that piece into its buffer.
func (w *writer) ahead(file filerange.Range, done, n int64) int64 {
	if w.above.ResponseWriter == nil || done+n < file.Len || n < 4*httpBuffer || !takesMore() {
		return 0
	}
	return max(min(file.Beyond, w.length-w.written-done-n, maxPart), 0)
}

// sendPart sends one part, and what goes ahead, by its placeholder.
func (w *writer) sendPart(a announcement) (_ filerange.Sent, err error) {
	w.conn.announce(a)
	defer w.conn.abandon()
	// Whatever net/http has buffered goes first, to be sent with the file.
	// Behind it a placeholder would be copied.
	if !w.flushed {
		err = w.flush()
	}
	if err == nil {
		w.conn.expect()
		_, err = w.ResponseWriter.Write(placeholder[:a.first])
	}
	if rest := w.conn.rest(); err == nil && rest > 0 {
		_, err = w.ResponseWriter.Write(placeholder[:rest])
	}
	return w.conn.settle(err)
}

func (w *writer) flush() error {
	w.flushed = true
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// report tells, once, how the body goes out.
func (w *writer) report(reason Reason) {
	if !w.reported && w.options.Sending != nil {
		w.options.Sending(w.request, reason)
	}
	w.reported, w.reason = true, reason
}

func (w *writer) failed(err error) {
	if w.options.Failed != nil {
		w.options.Failed(w.request, err)
	}
}

// contentLength returns the length that a handler has declared.
func contentLength(h http.Header) (int64, bool) {
	values := h["Content-Length"]
	if len(values) != 1 {
		return 0, false
	}
	n, err := strconv.ParseInt(values[0], 10, 64)
	return n, err == nil && n >= 0
}

// bodyAllowed reports whether a response of this status has a body (RFC 9110,
// section 6.4.1). Zero stands for the 200 that net/http will make of it.
func bodyAllowed(status int) bool {
	return status != http.StatusSwitchingProtocols && status != http.StatusNoContent && status != http.StatusNotModified
}

// originalMethod returns the method that net/http has read, which a handler
// may have rewritten in its request.
func originalMethod(r *http.Request) string {
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		return original.Method
	}
	return r.Method
}

var (
	_ http.ResponseWriter = (*writer)(nil)
	_ io.ReaderFrom       = (*writer)(nil)
)
