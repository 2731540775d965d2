package fileserver

import (
	"io"
	"net/http"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// httpBuffer is the size, in bytes, of net/http's buffer for a connection. Only a longer
// write is passed on unchanged.
const httpBuffer = 4 << 10

// sniffLen is how many bytes of a body net/http looks at for the Content-Type.
const sniffLen = 512

// An http1Body is the way of HTTP/1.1. net/http writes everything: a placeholder for what
// is sent from a file, and the rest as it is.
type http1Body struct {
	*body
	started bool // see start
	flushed bool // net/http holds nothing of the response
}

func (b *http1Body) trust() *trust { return http1Trust }

func (b *http1Body) protocolReason(http.ResponseWriter) Reason {
	if b.header.encoded || !b.header.lengthKnown && b.request.ProtoAtLeast(1, 1) {
		return ReasonChunked
	}
	return b.stateReason()
}

func (b *http1Body) write(p []byte) (int, error) {
	n, err := b.server.Write(p)
	b.countCopied(int64(n))
	return n, err
}

func (b *http1Body) writeString(s string) (int, error) {
	n, err := io.WriteString(b.server, s)
	b.countCopied(int64(n))
	return n, err
}

func (b *http1Body) flush() error { return b.flushServer() }

func (b *http1Body) setWriteDeadline(t time.Time) error {
	return http.NewResponseController(b.server).SetWriteDeadline(t)
}

// countCopied counts bytes of the body that net/http was given, and may still hold.
func (b *http1Body) countCopied(n int64) {
	b.sent.Copied += n
	b.flushed = b.flushed && n == 0
}

// readFrom sends what it can of a file, perhaps after some bytes through net/http, and
// copies the rest.
func (b *http1Body) readFrom(r io.Reader) (total int64, err error) {
	file, ok := b.fileToSend(r)
	if !ok {
		return b.copy(r)
	}
	file, whole := b.promised(file)
	if !whole {
		b.failed(io.ErrUnexpectedEOF)
		return 0, io.ErrUnexpectedEOF
	}
	if !b.started && file.Len > httpBuffer {
		if total, err = b.start(r, file.Len); err != nil {
			b.failed(err)
		}
		file = file.Rest(total)
	}
	if err == nil && b.mode == sending && file.Len > httpBuffer {
		var n int64
		n, err = b.sendFile(file)
		total += n
	}
	if err == nil && !exhausted(r) {
		var n int64
		n, err = b.copyRest(r)
		total += n
	}
	b.progress.next += total
	return total, err
}

// fileToSend returns the file that r reads, and whether it is to be sent.
func (b *http1Body) fileToSend(r io.Reader) (file filerange.Range, ok bool) {
	b.small = b.small || b.header.lengthKnown && b.header.length < b.options.MinSize
	if b.small || b.mode == copying {
		return file, false
	}
	if file, ok = filerange.Of(r); !ok {
		return file, false
	}
	if b.mode == undecided {
		b.decide(file.Len + file.Beyond)
		if b.reason != ReasonNone {
			b.tell(b.reason)
		}
	}
	return file, b.mode == sending
}

// start is called when the first n bytes of a file are to be sent. It makes net/http send
// those of them that net/http wants to see for the Content-Type. It also has the
// connection offloaded, if it is not yet: the record of the header proves the sequence
// number.
func (b *http1Body) start(r io.Reader, n int64) (total int64, err error) {
	b.started = true
	if !b.header.typed {
		if total, err = b.copy(io.LimitReader(r, sniffLen)); err != nil {
			return total, err
		}
	}
	if b.conn.tls.State() == ktls.Offloaded {
		return total, nil // the header waits for the file
	}
	b.conn.tls.Offload()
	if err := b.flushAll(); err != nil {
		return total, err
	}
	if b.conn.tls.State() == ktls.NotNeeded {
		// The header was sent before, so a piece of the body is the proof.
		m, err := b.copy(io.LimitReader(r, min(2*httpBuffer, n-total)))
		total += m
		if err != nil {
			return total, err
		}
	}
	if state := b.conn.tls.State(); state != ktls.Offloaded {
		b.mode = copying
		b.tell(reasonOf(state))
	}
	return total, nil
}

// sendFile sends more than httpBuffer bytes of a file, perhaps with what follows, and
// advances the reader. It leaves a rest that is too short for a placeholder.
func (b *http1Body) sendFile(file filerange.Range) (total int64, err error) {
	for rest := file; err == nil && rest.Len > httpBuffer; {
		if http1Trust.lost.Load() { // it was lost since the response began
			b.mode = copying
			b.tell(ReasonPathUnknown)
			break
		}
		a := b.announcement(rest)
		var sent filerange.Sent
		sent, err = b.sendPart(a)
		b.tellSent(sent)
		total += sent.Total()
		rest = rest.Rest(sent.Total())
	}
	if moveErr := file.Consume(total); err == nil {
		err = moveErr
	}
	if err != nil {
		b.failed(err)
	}
	return total, err
}

// announcement returns which part of a file is to be sent next.
func (b *http1Body) announcement(file filerange.Range) announcement {
	n := min(file.Len, maxPart)
	a := announcement{first: n, part: filerange.Segment{File: file.File, Offset: file.Offset, Len: n}}
	// Half of the part is the first piece of the placeholder. If that were so short that
	// net/http copied it into its buffer, nothing is sent ahead.
	if n == file.Len && n >= 4*httpBuffer {
		a.part.Ahead = b.ahead(file, maxPart)
	}
	if a.part.Ahead > 0 {
		// The total length of the placeholder is known only when the part has gone out.
		a.first = n / 2
	}
	return a
}

// sendPart sends one part, and what is sent ahead, by writing its placeholder.
func (b *http1Body) sendPart(a announcement) (_ filerange.Sent, err error) {
	sender := &b.conn.http1
	sender.announce(a)
	defer sender.cancel()
	// What net/http has buffered goes first, to be sent with the file. If it stayed in
	// the buffer, net/http would copy the placeholder behind it.
	if !b.flushed {
		err = b.flushAll()
	}
	if err == nil {
		sender.expect()
		_, err = b.server.Write(placeholder[:a.first])
	}
	if rest := sender.rest(); err == nil && rest > 0 {
		_, err = b.server.Write(placeholder[:rest])
	}
	return sender.finish(err)
}

// flushAll makes net/http write what it holds.
func (b *http1Body) flushAll() error {
	b.flushed = true
	return b.flushServer()
}

// copyRest copies what is left of a file, which is short or nothing. If a write exceeds
// the Content-Length, net/http takes nothing of it, and closes the connection when the
// handler has returned. So bytes that are within the Content-Length must not be in the
// same write.
func (b *http1Body) copyRest(r io.Reader) (total int64, err error) {
	if left := b.left(); b.mode == sending && b.header.lengthKnown && left > 0 {
		total, err = b.copy(io.LimitReader(r, left))
		if err != nil || total < left {
			return total, err
		}
	}
	n, err := b.copy(r)
	return total + n, err
}

// copy copies as net/http would.
func (b *http1Body) copy(r io.Reader) (n int64, err error) {
	if server, ok := b.server.(io.ReaderFrom); ok {
		n, err = server.ReadFrom(r)
	} else {
		n, err = filerange.CopyPooled(struct{ io.Writer }{b.server}, r)
	}
	b.countCopied(n)
	return n, err
}

var _ way = (*http1Body)(nil)
