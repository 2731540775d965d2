package http2body

import (
	"errors"
	"io"
	"log"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"reflect"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
)

// streamID returns the number of the stream of a server's writer.
func streamID(w http.ResponseWriter) uint32 {
	v := reflect.ValueOf(w)
	if v.Kind() == reflect.Struct { // from Go 1.27 on, around the server's own
		v = v.FieldByName("ResponseWriter")
	}
	return uint32(v.Elem().FieldByName("rws").Elem().FieldByName("stream").Elem().FieldByName("id").Uint())
}

// A served is the net.Conn that an HTTP/2 server has.
type served struct {
	net.Conn // the wire's
	frames   *Conn
}

func (s *served) Read(p []byte) (int, error)        { return s.frames.Read(p) }
func (s *served) Write(p []byte) (int, error)       { return s.frames.Write(p) }
func (s *served) SetReadDeadline(t time.Time) error { return s.frames.SetReadDeadline(t) }
func (s *served) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

func (s *served) Close() error {
	s.frames.Close(nil)
	return s.Conn.Close()
}

// servers are those that a connection is tried with.
var servers = []string{"golang.org/x/net", "net/http"}

// serve has a server serve one connection, and returns the client's side of it, and
// the server's. writing is a testWire's.
func serve(t testing.TB, server string, writing func(frames int) error, handler func(*Conn, http.ResponseWriter, *http.Request)) (net.Conn, *Conn) {
	t.Helper()
	client, conn := net.Pipe()
	wire := &testWire{conn: conn, writing: writing}
	c := New(wire)
	wire.follows = c
	below := &served{conn, c}
	var handlers atomic.Int64
	served := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handlers.Add(1)
		defer handlers.Add(-1)
		handler(c, w, r)
	})
	done := make(chan struct{})
	t.Cleanup(func() {
		client.Close()
		<-done
		eventually(c, func() bool { return handlers.Load() == 0 })
	})
	if server != "net/http" {
		go func() {
			defer close(done)
			new(http2.Server).ServeConn(below, &http2.ServeConnOpts{ //nolint:staticcheck // it takes any connection
				Handler: served, BaseConfig: &http.Server{ErrorLog: discardLog},
			})
		}()
		return client, c
	}
	s := &http.Server{Handler: served, ErrorLog: discardLog, Protocols: new(http.Protocols)}
	s.Protocols.SetUnencryptedHTTP2(true)
	ln := &oneListener{conn: below, closed: make(chan struct{})}
	s.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			ln.Close()
		}
	}
	go func() {
		defer close(done)
		_ = s.Serve(ln)
	}()
	return client, c
}

// A oneListener accepts one connection.
type oneListener struct {
	conn   net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *oneListener) Accept() (net.Conn, error) {
	if conn := l.conn; conn != nil {
		l.conn = nil
		return conn, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}
func (l *oneListener) Addr() net.Addr { return &net.TCPAddr{} }
func (l *oneListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// A modelSite serves the model's responses. What a request asks for is in its header.
type modelSite struct {
	t    testing.TB
	file *os.File
	body []byte
}

func number(r *http.Request, name string) int64 {
	n, _ := strconv.ParseInt(r.Header.Get(name), 10, 64)
	return n
}

var discardLog = newDiscardLog()

func (s *modelSite) handle(c *Conn, w http.ResponseWriter, r *http.Request) {
	random := mathrand.New(mathrand.NewPCG(uint64(number(r, "seed")), 3))
	offset := number(r, "offset")
	size := number(r, "size")
	body := s.body[offset : offset+size]
	trailer := r.Header.Get("trailers") != ""
	if trailer {
		w.Header().Set("Trailer", "X-End")
		defer w.Header().Set("X-End", "yes")
	}
	kind := r.Header.Get("kind")
	if kind != "streamed" {
		w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	}
	pieces := func(n int) int { return 1 + random.IntN(1+random.IntN(max(n, 1))) }
	switch kind {
	case "small", "streamed":
		for len(body) > 0 {
			n, err := w.Write(body[:min(len(body), pieces(40_000))])
			if body = body[n:]; err != nil {
				return
			}
			if random.IntN(3) == 0 && http.NewResponseController(w).Flush() != nil {
				return
			}
		}
		return
	}
	stream, err := c.Stream(streamID(w))
	if err != nil { // reset already
		return
	}
	n, err := w.Write(body[:min(size, 512)])
	if err != nil || int64(n) == size {
		return
	}
	err = stream.AwaitServer(w, int64(n))
	if err != nil {
		return
	}
	stream.Take()
	fail := number(r, "fail")
	for at := int64(n); at < size && err == nil; {
		if fail > 0 && at >= fail {
			if kind == "abort" {
				panic(http.ErrAbortHandler)
			}
			_ = http.NewResponseController(w).SetWriteDeadline(time.Unix(1, 0))
			fail = 0
		}
		var m int64
		switch m = min(size-at, int64(pieces(300_000))); {
		case kind == "bytes" || kind == "mixed" && random.IntN(2) == 0:
			var k int
			k, err = stream.Write(body[at:at+m], at+m == size)
			m = int64(k)
			if err == nil && random.IntN(4) == 0 {
				err = stream.Flush()
			}
		default:
			ahead := min(size-at-m, int64(random.IntN(2)*pieces(200_000)))
			var sent filerange.Sent
			sent, err = stream.SendFile(filerange.Segment{File: s.file, Offset: offset + at, Len: m, Ahead: ahead})
			m = sent.Total()
		}
		at += m
	}
	if err == nil {
		err = stream.Flush()
	}
	if err != nil {
		if r.Header.Get("whole") != "" && !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.ErrClosedPipe) {
			s.t.Errorf("%s of %d bytes: %v", kind, size, err)
		}
		panic(http.ErrAbortHandler)
	}
}

func newDiscardLog() *log.Logger { return log.New(io.Discard, "", 0) }
