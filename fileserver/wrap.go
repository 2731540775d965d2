package fileserver

import (
	"io"
	"net/http"
	"reflect"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// Insert puts a writer that sends files by sendfile(2) at the bottom of the
// chain of writers of a request, and returns the writer for the next handler, and
// what will be known of the response, whose Done is to be called. If it was called for
// the request before, the Response is nil. The writer stays when that handler has
// returned, since Caddy's error routes write to the same chain.
func Insert(w http.ResponseWriter, r *http.Request, options *Options) (http.ResponseWriter, *Response) {
	conn := connOf(r)
	if conn != nil && conn.tls.Retired() {
		w.Header().Set("Connection", "close") // over HTTP/2 the server makes GOAWAY of it
	}
	if _, idle := caddyhttp.IdleTimeoutsFromContext(r.Context()); idle != nil {
		if _, inserted := idle.ResponseWriter.(*writer); inserted {
			return w, nil
		}
		bottom := newWriter(idle.ResponseWriter, r, conn, options)
		bottom.above.ResponseWriter = bottom
		idle.ResponseWriterWrapper = &bottom.above
		if bottom.http2() {
			idle.Ctrl = http.NewResponseController(bottom)
		}
		return w, &bottom.Response
	}
	for below := w; below != nil; below = unwrap(below) {
		if _, inserted := below.(*writer); inserted {
			return w, nil
		}
	}
	bottom := newWriter(w, r, conn, options)
	if bottom.http2() {
		return http2Writer{bottom}, &bottom.Response
	}
	return bottom, &bottom.Response
}

func newWriter(w http.ResponseWriter, r *http.Request, conn *conn, options *Options) *writer {
	bottom := &writer{
		ResponseWriterWrapper: caddyhttp.ResponseWriterWrapper{ResponseWriter: w},
		request:               r,
		Response:              Response{conn: conn},
		options:               options,
	}
	bottom.writer = bottom
	return bottom
}

// bottomOf returns the writer of net/http or of the HTTP/2 server below w, or nil
// if something that may alter a body stands between.
func bottomOf(w http.ResponseWriter) http.ResponseWriter {
	for ; w != nil; w = unwrap(w) {
		switch typeName(w) {
		case "net/http.response", "golang.org/x/net/http2.responseWriter",
			"net/http.http2responseWriter", "net/http.http2ResponseWriter":
			return w
		case caddyPackage + ".readDeadlineWriter",
			caddyPackage + ".IdleTimeoutWriter":
		case caddyPackage + ".responseRecorder":
			if recorder, ok := w.(caddyhttp.ResponseRecorder); !ok || recorder.Buffer() != nil {
				return nil
			}
		default:
			return nil
		}
	}
	return nil
}

const caddyPackage = "github.com/caddyserver/caddy/v2/modules/caddyhttp"

// typeName returns package path and name of the type of v, or of what it points to.
func typeName(v any) string {
	t := reflect.TypeOf(v)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.PkgPath() + "." + t.Name()
}

func unwrap(w http.ResponseWriter) http.ResponseWriter {
	if u, ok := w.(interface{ Unwrap() http.ResponseWriter }); ok {
		return u.Unwrap()
	}
	return nil
}

// takesMore reports whether Caddy's idle timeouts, which hand on a body in parts,
// go on rightly when more than a part was taken of the body: Caddy doesn't promise
// that, so it is tried.
var takesMore = sync.OnceValue(func() (ok bool) {
	// Another Caddy may ask for what is not there.
	defer func() { ok = recover() == nil && ok }()
	const length, part = 10, 4
	taker := &greedy{most: part + 2}
	idle := &caddyhttp.IdleTimeoutWriter{
		ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: taker},
		Ctrl:                  http.NewResponseController(taker),
		MaxChunk:              part,
		Logger:                zap.NewNop(),
	}
	body := &io.LimitedReader{N: length}
	n, err := idle.ReadFrom(body)
	return n == length && err == nil && body.N == 0
})

// A greedy takes more of a body than the reader that it gets allows.
type greedy struct {
	http.ResponseWriter
	most int64
}

func (g *greedy) ReadFrom(r io.Reader) (int64, error) {
	part, ok := r.(*io.LimitedReader)
	if !ok {
		return 0, io.ErrNoProgress
	}
	body, ok := part.R.(*io.LimitedReader)
	if !ok {
		return 0, io.ErrNoProgress
	}
	n := min(g.most, body.N)
	body.N -= n
	return n, nil
}

func (*greedy) SetWriteDeadline(time.Time) error { return nil }
