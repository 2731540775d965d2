package fileserver

import (
	"io"
	"net/http"
	"reflect"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// Wrap puts a writer that sends files by sendfile(2) at the bottom of the chain of
// writers of a request: above the server's own writer, below all that Caddy or a handler
// has put around it. It returns the writer for the next handler, and a Response that will
// say what is known. The caller must call [Response.Done]. If Wrap was called for the
// request before, the Response is nil. The writer stays when that handler has returned,
// because Caddy's error routes write to the same chain.
func Wrap(w http.ResponseWriter, r *http.Request, options *Options) (http.ResponseWriter, *Response) {
	if r.ProtoMajor == 2 {
		growStack() // over HTTP/2 each request has a new goroutine
	}
	c := connOf(r)
	if c != nil && c.tls.Retired() {
		w.Header().Set("Connection", "close") // over HTTP/2 the server then sends GOAWAY
	}
	if _, idle := caddyhttp.IdleTimeoutsFromContext(r.Context()); idle != nil {
		if _, wrapped := idle.ResponseWriter.(*writer); wrapped {
			return w, nil
		}
		response := newResponse(idle.ResponseWriter, r, c, options)
		own := &response.writer
		own.body.inParts = true
		own.above.ResponseWriter = own
		idle.ResponseWriterWrapper = &own.above
		if r.ProtoMajor == 2 {
			idle.Ctrl = http.NewResponseController(own)
		}
		return w, response
	}
	for below := w; below != nil; below = unwrap(below) {
		if _, wrapped := below.(*writer); wrapped {
			return w, nil
		}
	}
	response := newResponse(w, r, c, options)
	if r.ProtoMajor == 2 {
		return http2Writer{&response.writer}, response
	}
	return &response.writer, response
}

// newResponse returns a response whose writer writes to server.
func newResponse(server http.ResponseWriter, r *http.Request, c *conn, options *Options) *Response {
	response := new(Response)
	w := &response.writer
	w.ResponseWriter = server
	b := &w.body
	b.server, b.request, b.conn, b.options = server, r, c, options
	if r.ProtoMajor == 2 {
		w.http2.body, w.http2.deadline.server = b, server
		b.way = &w.http2
	} else {
		w.http1.body = b
		b.way = &w.http1
	}
	return response
}

// An http2Writer is our writer for handlers of HTTP/2 without idle timeouts. It has the
// methods of the HTTP/2 server's writer, so it has no Hijack.
type http2Writer struct{ http2Methods }

type http2Methods interface {
	http.ResponseWriter
	http.Flusher
	http.Pusher
	io.ReaderFrom
	io.StringWriter
	FlushError() error
}

// Unwrap leads an http.ResponseController to our writer.
func (w http2Writer) Unwrap() http.ResponseWriter { return w.http2Methods }

// bottomOf returns the writer of net/http or of the HTTP/2 server below w, or nil if
// something that may alter a body stands in between.
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

// typeName returns the package path and name of the type of v, or of what v points to.
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

// streamID returns the number of the stream that an HTTP/2 server's writer belongs to, or
// 0 if it is not known. The number is in unexported fields of the server, which must be
// where they are expected.
func streamID(w http.ResponseWriter) uint32 {
	v := reflect.ValueOf(w)
	if v.Kind() == reflect.Struct { // from Go 1.27 on, a struct around the server's own writer
		v = v.FieldByName("ResponseWriter")
	}
	number := field(field(field(v, "rws"), "stream"), "id")
	if number.Kind() != reflect.Uint32 {
		return 0
	}
	return uint32(number.Uint())
}

// field returns a field of the struct that v points to, or the zero Value.
func field(v reflect.Value, name string) reflect.Value {
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return reflect.Value{}
	}
	return v.Elem().FieldByName(name)
}

// originalMethod returns the method that net/http has read. A handler may have rewritten
// the method in its request.
func originalMethod(r *http.Request) string {
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		return original.Method
	}
	return r.Method
}

// newIdleTimeouts returns what Caddy's server puts around the server's writer.
func newIdleTimeouts(w http.ResponseWriter) *caddyhttp.IdleTimeoutWriter {
	return &caddyhttp.IdleTimeoutWriter{
		ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w},
		Ctrl:                  http.NewResponseController(w),
		Deadline:              caddyhttp.IdleDeadline{Start: time.Now(), Timeout: time.Minute},
		Logger:                zap.NewNop(),
	}
}
