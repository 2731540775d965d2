package fileserver

import (
	"io"
	"net/http"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// DefaultMinSize is the minimum length, in bytes, of a body that goes out by sendfile(2)
// if nothing else is configured. Bodies of that length take fewer instructions than
// without this module, over both protocols. Over HTTP/1.1 a body of 64 KiB takes 1.05
// times as many as without; over HTTP/2 a body of 16 KiB takes 0.90 times as many.
const DefaultMinSize = 128 << 10

// Options say what to do with the bodies of a route.
type Options struct {
	// MinSize is the minimum length, in bytes, of a body that goes out by sendfile(2).
	// Such a body has its connection offloaded.
	MinSize int64

	// Sending, if not nil, is called once for each response whose body is a file of at
	// least MinSize. The reason is ReasonNone if the body goes out by sendfile(2).
	// Otherwise it says why the body is copied.
	Sending func(r *http.Request, reason Reason)

	// Failed, if not nil, is called when a body could not be sent whole.
	Failed func(r *http.Request, err error)
}

// A body is what is known and decided about the body of a response, over either protocol.
// The writer notes the header. The way of the protocol changes the rest.
type body struct {
	server  http.ResponseWriter // the server's own, or Caddy's around it
	request *http.Request
	conn    *conn // nil if the request did not come over a connection of ours
	options *Options
	way     way

	header   header
	inParts  bool // Caddy's idle timeouts hand the body on in parts
	mode     mode
	small    bool   // shorter than Options.MinSize
	told     bool   // Options.Sending was called
	reason   Reason // why mode is copying, ReasonNone if the body is small
	sent     filerange.Sent
	progress progress
}

// A mode says who sends a body.
type mode uint8

const (
	undecided mode = iota
	copying        // the server does
	sending        // we do, by sendfile(2) if it is a file
)

// decide decides, once for the response, who sends a body. length is that of a body
// without a Content-Length.
func (b *body) decide(length int64) {
	if b.header.lengthKnown {
		length = b.header.length
	}
	b.mode = copying
	if b.small = length < b.options.MinSize; b.small {
		return
	}
	if b.reason = b.reasonToCopy(); b.reason == ReasonNone {
		b.mode = sending
	}
}

// reasonToCopy returns why the body has to be copied, or ReasonNone. The connection may
// not be offloaded yet.
func (b *body) reasonToCopy() Reason {
	server, trust := bottomOf(b.server), b.way.trust()
	switch {
	case b.conn == nil:
		return ReasonNotOffloadable
	case trust.lost.Load():
		return trust.reason
	case server == nil:
		return ReasonWriterWrapped
	case originalMethod(b.request) == http.MethodHead, !b.header.hasBody():
		return ReasonNoBody
	}
	return b.way.protocolReason(server)
}

// stateReason returns why the connection can't be offloaded, or ReasonNone.
func (b *body) stateReason() Reason {
	if state := b.conn.tls.State(); state != ktls.Offloaded && state != ktls.NotNeeded {
		return reasonOf(state)
	}
	return ReasonNone
}

// tell reports, once, how the body goes out.
func (b *body) tell(reason Reason) {
	if !b.told && b.options.Sending != nil {
		b.options.Sending(b.request, reason)
	}
	b.told, b.reason = true, reason
}

// tellSent counts bytes of a file, and reports how they went out.
func (b *body) tellSent(sent filerange.Sent) {
	b.sent = b.sent.Add(sent)
	if sent.Copied > 0 {
		b.tell(ReasonSendfileRefused)
	} else {
		b.tell(ReasonNone)
	}
}

// failed reports that a file was not sent whole. Perhaps nothing of it was sent.
func (b *body) failed(err error) {
	if !b.told {
		b.tell(ReasonNone)
	}
	if b.options.Failed != nil {
		b.options.Failed(b.request, err)
	}
}

func (b *body) flushServer() error { return http.NewResponseController(b.server).Flush() }

// left returns how many bytes of a body with a Content-Length are still to come.
func (b *body) left() int64 { return b.header.length - b.sent.Total() }

// complete reports whether all of the body has been written.
func (b *body) complete() bool { return b.header.lengthKnown && b.left() <= 0 }

// A progress says how far a file was sent, and how far it was promised, as offsets.
type progress struct {
	file      filerange.File
	next, end int64
}

// promised limits a file to what is left of the Content-Length. The server takes no more,
// so no more is promised to anybody. It returns false if a part of the file was sent and
// the file has since lost some of what was still to come. Only Caddy's idle timeouts make
// known what is beyond a part.
func (b *body) promised(file filerange.Range) (_ filerange.Range, whole bool) {
	if b.header.lengthKnown {
		left := max(b.left(), 0)
		file.Len = min(file.Len, left)
		file.Beyond = min(file.Beyond, left-file.Len)
	}
	end := file.Offset + file.Len
	if b.inParts {
		end += file.Beyond
	}
	p := &b.progress
	if p.file == file.File && p.next == file.Offset && file.Size < p.end {
		return file, false
	}
	*p = progress{file.File, file.Offset, end}
	return file, true
}

// exhausted reports whether r surely has nothing more to give.
func exhausted(r io.Reader) bool {
	limited, ok := r.(*io.LimitedReader)
	return ok && limited.N <= 0
}
