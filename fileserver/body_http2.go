package fileserver

import (
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/internal/http2body"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// maxFrames limits a part of a file and what is sent ahead, in bytes: a number of whole
// frames, about 4 MiB.
const maxFrames = 256 * http2body.FilePayload

// An http2Body is the way of HTTP/2. The server writes the header and the beginning of
// each body. The rest of a large body, from a file or from memory, goes out in frames of
// package http2body.
type http2Body struct {
	*body
	stream     *http2body.Stream // set with the decision, when mode is sending
	taken      bool              // the stream was taken over from the server
	noSendfile bool              // the kernel refuses the file
	deadline   writeDeadline
}

func (b *http2Body) trust() *trust { return http2Trust }

func (b *http2Body) protocolReason(server http.ResponseWriter) Reason {
	id := streamID(server)
	if id > 0 && id%2 == 0 { // the server's own streams have even numbers
		return ReasonPushed
	}
	frames := b.conn.http2.Load()
	var err error
	b.stream, err = frames.Stream(id)
	switch {
	case errors.Is(err, http2body.ErrUnknown):
		return ReasonStreamUnknown
	case err != nil: // the client has reset the stream
		return reasonOf(ktls.Closing)
	}
	reason := b.stateReason()
	if reason != ReasonNone {
		frames.Release()
	}
	return reason
}

func (b *http2Body) write(p []byte) (int, error) {
	if !b.sends() {
		return b.writeServer(p)
	}
	return b.send(p)
}

func (b *http2Body) writeString(s string) (int, error) {
	if !b.sends() {
		n, err := io.WriteString(b.server, s)
		b.sent.Copied += int64(n)
		return n, err
	}
	return b.send([]byte(s))
}

func (b *http2Body) flush() error {
	if b.taken {
		return b.stream.Flush()
	}
	return b.flushServer()
}

func (b *http2Body) setWriteDeadline(t time.Time) error { return b.deadline.set(t) }

// sends reports whether we send what is written. A body of known length is decided on
// with its first bytes, because it need not be a file.
func (b *http2Body) sends() bool {
	if b.mode == undecided && b.header.lengthKnown {
		b.decide(b.header.length)
	}
	return b.mode == sending
}

func (b *http2Body) writeServer(p []byte) (int, error) {
	n, err := b.server.Write(p)
	b.sent.Copied += int64(n)
	return n, err
}

// readFrom sends a file by sendfile(2), and anything else from memory. The server has
// sent the beginning before.
func (b *http2Body) readFrom(r io.Reader) (total int64, err error) {
	file, isFile := filerange.Of(r)
	if b.mode == undecided {
		if !isFile && !b.header.lengthKnown {
			return b.copy(r)
		}
		b.decide(file.Len + file.Beyond)
	}
	if b.mode == copying {
		return b.copyAndTell(r, isFile)
	}
	if isFile {
		var whole bool
		if file, whole = b.promised(file); !whole {
			b.tooShort()
		}
	}
	if !b.taken {
		total, err = b.start(r, file)
		b.progress.next += total
		switch {
		case err != nil:
			if isFile {
				b.failed(err)
			}
			return total, err
		case b.mode == copying:
			n, err := b.copyAndTell(r, isFile)
			return total + n, err
		case !b.taken: // that was all
			return total, nil
		}
		file = file.Rest(total)
	}
	n, err := b.sendRest(r, file)
	b.progress.next += n
	return total + n, err
}

// start makes the server send the beginning of a body, and takes over the stream if there
// is more. file is the zero value if the body is not a file.
func (b *http2Body) start(r io.Reader, file filerange.Range) (total int64, err error) {
	n := int64(sniffLen)
	if file.File != nil {
		n = http2body.Beginning(file.Offset, n)
		// Read waits for a disk too, and takes a thread meanwhile.
		if err := b.stream.Load(file.Segment(file.Beyond)); err != nil {
			return 0, err
		}
	}
	b.conn.tls.Offload()
	total, err = b.copy(io.LimitReader(r, n))
	if err == nil && total == n && !b.complete() {
		err = b.takeOver()
	}
	if err == nil && total < min(file.Len, n) {
		b.tooShort()
	}
	return total, err
}

// startBytes is start for a body from memory. The server must get as much as it wants to
// see for the Content-Type.
func (b *http2Body) startBytes(p []byte) (n int, err error) {
	b.conn.tls.Offload()
	n, err = b.writeServer(p[:min(len(p), sniffLen)])
	seen := b.header.typed || b.sent.Total() >= sniffLen
	if err == nil && n > 0 && seen && !b.complete() {
		err = b.takeOver()
	}
	return n, err
}

// takeOver takes over the stream when the connection is offloaded: the beginning of the
// body has proved the sequence number. If the connection can't be offloaded, the body is
// copied.
func (b *http2Body) takeOver() error {
	err := b.stream.AwaitServer(bottomOf(b.server), b.sent.Total())
	switch state := b.conn.tls.State(); {
	case errors.Is(err, http2body.ErrMismatch): // somebody has written past our writer
		b.mode, b.reason = copying, ReasonStreamUnknown
	case err != nil:
		return err
	case state != ktls.Offloaded:
		b.mode, b.reason = copying, reasonOf(state)
		b.conn.http2.Load().Release()
	default:
		b.stream.Take()
		b.taken = true
		b.deadline.take()
	}
	return nil
}

// sendRest sends what is left of a body after the stream was taken over. A file goes out
// by sendfile(2). Anything else, and what has been added to a file meanwhile, goes out
// from memory. file is the zero value if the body is not a file.
func (b *http2Body) sendRest(r io.Reader, file filerange.Range) (total int64, err error) {
	if file.Len > 0 && !b.noSendfile {
		sent, err := b.stream.SendFile(file.Segment(b.ahead(file, maxFrames-file.Len)))
		total = sent.Total()
		b.tellRecorders(total)
		b.noSendfile = sent.Copied > 0
		b.tellSent(sent)
		if errors.Is(err, http2body.ErrShort) {
			b.tooShort()
		}
		if err != nil {
			b.failed(err)
		}
		if err = errors.Join(err, file.Consume(total)); err != nil || exhausted(r) {
			return total, err
		}
	}
	n, err := filerange.CopyPooled(framesWriter{b}, r)
	return total + n, err
}

// tooShort ends a response whose file has become shorter. It makes the server reset the
// stream. If the handler returned an error instead, the server would end the stream as if
// the body were whole.
func (b *http2Body) tooShort() {
	b.failed(io.ErrUnexpectedEOF)
	panic(http.ErrAbortHandler)
}

// send sends bytes of a body from memory. The server sends the first of them.
func (b *http2Body) send(p []byte) (total int, err error) {
	if b.header.lengthKnown && int64(len(p)) > b.left() {
		return 0, http.ErrContentLength
	}
	if !b.taken {
		total, err = b.startBytes(p)
		if p = p[total:]; err != nil || len(p) == 0 {
			return total, err
		}
		if b.mode == copying {
			n, err := b.writeServer(p)
			return total + n, err
		}
	}
	end := !b.header.lengthKnown || int64(len(p)) >= b.left()
	n, err := b.stream.Write(p, end)
	b.tellRecorders(int64(n))
	b.sent.Copied += int64(n)
	return total + n, err
}

// A framesWriter sends what it is given, and has no ReadFrom.
type framesWriter struct{ b *http2Body }

func (f framesWriter) Write(p []byte) (int, error) { return f.b.send(p) }

// copyAndTell copies the rest of a body, and reports why if it is a file.
func (b *http2Body) copyAndTell(r io.Reader, isFile bool) (int64, error) {
	if isFile && b.reason != ReasonNone {
		b.tell(b.reason)
	}
	return b.copy(r)
}

// copy makes the server send what r has to give. The HTTP/2 server leaves that to
// io.Copy, whose buffer is by far the most memory that a small response takes. So does a
// writer of Caddy below.
func (b *http2Body) copy(r io.Reader) (int64, error) {
	n, err := filerange.CopyPooled(struct{ io.Writer }{b.server}, r)
	b.sent.Copied += n
	return n, err
}

// tellRecorders makes Caddy's recorders below count bytes that do not pass through them.
// The access log gets the length of the body from the recorders. With idle timeouts the
// recorders are above.
func (b *http2Body) tellRecorders(n int64) {
	if below, ok := b.server.(io.ReaderFrom); ok && !b.inParts {
		_, _ = below.ReadFrom(sentAlready(n))
	}
}

// A sentAlready is a reader whose bytes need not be written.
type sentAlready int64

func (sentAlready) Read([]byte) (int, error)           { return 0, io.EOF }
func (n sentAlready) WriteTo(io.Writer) (int64, error) { return int64(n), nil }

var _ way = (*http2Body)(nil)
