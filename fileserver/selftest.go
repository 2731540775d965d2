package fileserver

import (
	"context"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/internal/http2body"
)

// A Fault is something that this package relies on, and that net/http,
// golang.org/x/net/http2 or Caddy don't do in this build.
type Fault struct {
	Protocol string // HTTP/1.1 or HTTP/2
	What     string // a clause; there are few, and they are fixed
	// Copied says that all bodies over that protocol are copied because of the fault. If
	// it is false, sending them only takes more work.
	Copied bool
}

// SelfTest tries what this package relies on, and returns what does not hold. It tries
// only when it is first called in the life of the process. Later it returns the same. It
// takes less than a millisecond and no network. It waits up to ten seconds for an answer
// that does not come, at most four times.
func SelfTest() []Fault { return tested() }

var tested = sync.OnceValue(func() []Fault {
	faults := confirmed(func() []Fault { return newSelfTest().run() })
	distrustFaults(faults)
	return faults
})

// confirmed returns the faults that two runs find. One run is not enough, because the
// process may be stopped for longer than a run waits, for example in a container that is
// paused. What the run waits for has no time to happen then.
func confirmed(run func() []Fault) []Fault {
	faults := run()
	if len(faults) == 0 {
		return nil
	}
	again := run()
	return slices.DeleteFunc(faults, func(f Fault) bool { return !slices.Contains(again, f) })
}

// A selfTest serves one request over each protocol, with a server as Caddy has it, on a
// connection in memory. The functions are what it tries. Tests replace them.
type selfTest struct {
	// between is what stands between the server and a connection.
	between func(net.Conn) net.Conn
	// connOf finds the connection of a request.
	connOf func(*http.Request) *conn
	// bottomOf finds the server's own writer.
	bottomOf func(http.ResponseWriter) http.ResponseWriter
	// idle is what Caddy puts around the server's writer.
	idle func(http.ResponseWriter) *caddyhttp.IdleTimeoutWriter
	// wrap makes idle timeouts write to a writer of ours.
	wrap func(*caddyhttp.IdleTimeoutWriter, *http.Request) (http.ResponseWriter, *Response)
	// streamID finds the number of an HTTP/2 server's stream.
	streamID func(http.ResponseWriter) uint32
	// takesMore reports whether Caddy goes on correctly if more is sent than a part.
	takesMore func() bool
	patience  time.Duration
}

func newSelfTest() *selfTest {
	return &selfTest{
		between:  func(c net.Conn) net.Conn { return struct{ net.Conn }{c} }, // as Caddy hides our connection
		connOf:   connOf,
		bottomOf: bottomOf,
		idle:     newIdleTimeouts,
		wrap: func(idle *caddyhttp.IdleTimeoutWriter, r *http.Request) (http.ResponseWriter, *Response) {
			// Without a connection, because there is none to offload.
			ctx := context.WithValue(r.Context(), http.LocalAddrContextKey, nil)
			ctx = caddyhttp.ContextWithIdleTimeouts(ctx, nil, idle)
			return Wrap(idle, r.WithContext(ctx), new(Options))
		},
		streamID:  streamID,
		takesMore: takesMore,
		patience:  10 * time.Second,
	}
}

// What a fault may be.
const (
	noConnection  = "the connection of a request is not found by its local address"
	writerUnknown = "the server's writer is of an unknown type"
	writerIgnored = "Caddy's idle timeouts do not write to the writer that is put into them"
	writesAltered = "a long write does not reach the connection as it is"
	noStream      = "the stream of a response is not found in the server's writer"
	noAnswer      = "a request is not answered in time, even at the second try"
	noMore        = "Caddy's idle timeouts fail if more of a body is sent than they hand on"
)

func (s *selfTest) run() (faults []Fault) {
	absent := s.serve(http1Trust, []byte("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), s.tryHTTP1)
	faults = missing(http1Trust.protocol, absent, writesAltered)
	if !s.takesMore() {
		faults = append(faults, Fault{http1Trust.protocol, noMore, false})
	}
	absent = s.serve(http2Trust, append([]byte(http2.ClientPreface), http2body.Frames(func(f *http2.Framer) error {
		_ = f.WriteSettings()
		return f.WriteHeaders(http2.HeadersFrameParam{
			StreamID: selfTestStream, EndStream: true, EndHeaders: true,
			// HPACK (RFC 7541): :method GET, :scheme https, :path /, :authority x
			BlockFragment: []byte{0x82, 0x87, 0x84, 0x41, 1, 'x'},
		})
	})...), s.tryHTTP2)
	return append(faults, missing(http2Trust.protocol, absent, noStream)...)
}

// missing returns the faults that serve has not found to be absent. Only this protocol
// can have the last one.
func missing(protocol string, absent map[string]bool, last string) (faults []Fault) {
	if absent == nil {
		return []Fault{{protocol, noAnswer, true}}
	}
	for _, what := range []string{noConnection, writerUnknown, writerIgnored, last} {
		if !absent[what] {
			faults = append(faults, Fault{protocol, what, true})
		}
	}
	return faults
}

// tryHTTP1 writes a placeholder behind a header.
func (s *selfTest) tryHTTP1(w http.ResponseWriter, conn *selfTestConn, absent map[string]bool) {
	w.Header().Set("Content-Type", "x/y")
	w.Header().Set("Content-Length", strconv.Itoa(selfTestLen))
	if http.NewResponseController(w).Flush() == nil {
		_, _ = w.Write(placeholder[:selfTestLen])
		absent[writesAltered] = conn.unaltered
	}
}

// tryHTTP2 takes over a stream.
func (s *selfTest) tryHTTP2(w http.ResponseWriter, conn *selfTestConn, absent map[string]bool) {
	if s.streamID(w) != selfTestStream {
		return
	}
	stream, err := conn.frames.Stream(selfTestStream)
	if err != nil {
		return
	}
	n, err := io.WriteString(w, "text")
	if err != nil {
		return
	}
	// The server sends nothing else of this length.
	absent[noStream] = stream.AwaitServer(w, int64(n)) == nil
}

// selfTestStream is the number of the stream over HTTP/2. No counter has it by chance.
const selfTestStream = 12345

// selfTestLen is the length of a placeholder that exceeds net/http's buffer, in bytes.
const selfTestLen = 2 * httpBuffer

// tryWriters puts Caddy's writers, and ours, around the server's writer.
func (s *selfTest) tryWriters(w http.ResponseWriter, r *http.Request) (known, taken bool) {
	idle := s.idle(w)
	recorder := caddyhttp.NewResponseRecorder(idle, nil, nil)
	known = s.bottomOf(w) == w && s.bottomOf(recorder) == w

	// A stand-in for the server's writer, which must not write anything yet.
	var below standInWriter
	idle = s.idle(&below)
	wrapped, response := s.wrap(idle, r)
	n, err := wrapped.(io.ReaderFrom).ReadFrom(strings.NewReader("body"))
	m, writeErr := wrapped.Write([]byte("text"))
	taken = err == nil && writeErr == nil && n == 4 && m == 4 && response.Copied() == 8 && below == 8
	return known, taken
}

// A standInWriter counts what is written.
type standInWriter int

func (*standInWriter) Header() http.Header { return http.Header{} }
func (*standInWriter) WriteHeader(int)     {}
func (w *standInWriter) Write(p []byte) (int, error) {
	*w += standInWriter(len(p))
	return len(p), nil
}

func (*standInWriter) SetWriteDeadline(time.Time) error { return nil }
