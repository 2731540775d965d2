package fileserver

import (
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/internal/http2body"
)

// serve serves a request over a protocol. It returns the faults that are absent, or nil
// if there is no answer. try looks for the faults of this protocol.
func (s *selfTest) serve(protocol *trust, request []byte, try func(http.ResponseWriter, *selfTestConn, map[string]bool)) map[string]bool {
	client, end := net.Pipe()
	tried := &selfTestConn{Conn: end, addr: localAddr{end.LocalAddr(), new(conn)}}
	if protocol == http2Trust {
		tried.frames = http2body.New(selfTestWire{end})
	}
	handled := make(chan map[string]bool, 1)
	server := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		absent := map[string]bool{}
		defer func() {
			_ = recover() // what is wrong may panic
			handled <- absent
		}()
		absent[noConnection] = s.connOf(r) == tried.addr.conn
		absent[writerUnknown], absent[writerIgnored] = s.tryWriters(w, r)
		try(w, tried, absent)
	})}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	_ = http2.ConfigureServer(server, new(http2.Server)) //nolint:staticcheck // as Caddy does

	var running sync.WaitGroup
	defer running.Wait()
	defer client.Close()
	defer server.Close()
	running.Go(func() { _ = server.Serve(newOneConn(s.between(tried))) })
	running.Go(func() { _, _ = client.Write(request) })
	running.Go(func() { _, _ = io.Copy(io.Discard, client) })
	select {
	case absent := <-handled:
		return absent
	case <-time.After(s.patience):
		return nil
	}
}

// A selfTestConn is a connection that looks for the placeholder, and follows the
// frames.
type selfTestConn struct {
	net.Conn
	addr   localAddr
	frames *http2body.Conn // over HTTP/2
	// unaltered: the last write was the placeholder, unchanged.
	unaltered bool
}

func (c *selfTestConn) LocalAddr() net.Addr { return &c.addr }

func (c *selfTestConn) Read(p []byte) (int, error) {
	if c.frames != nil {
		return c.frames.Read(p)
	}
	return c.Conn.Read(p)
}

func (c *selfTestConn) Close() error {
	if c.frames != nil {
		c.frames.Close(nil)
	}
	return c.Conn.Close()
}

func (c *selfTestConn) Write(p []byte) (int, error) {
	if c.frames != nil {
		return c.frames.Write(p)
	}
	c.unaltered = len(p) == selfTestLen && isPlaceholder(p)
	return c.Conn.Write(p)
}

// A selfTestWire is the wire of a self-test. Only the server writes to it.
type selfTestWire struct{ net.Conn }

func (selfTestWire) Cork(bool) {}
func (selfTestWire) Abort()    {}
func (selfTestWire) SendFrames([]byte, filerange.Segment, int64) (filerange.Sent, error) {
	return filerange.Sent{}, errors.ErrUnsupported
}

// A oneConn is a listener that accepts one connection.
type oneConn struct {
	conn   chan net.Conn
	closed chan struct{}
	once   sync.Once
	addr   net.Addr
}

func newOneConn(c net.Conn) *oneConn {
	l := &oneConn{conn: make(chan net.Conn, 1), closed: make(chan struct{}), addr: c.LocalAddr()}
	l.conn <- c
	return l
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *oneConn) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *oneConn) Addr() net.Addr { return l.addr }
