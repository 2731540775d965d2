package integration_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A lastBytes is a client that takes what the server sends little by little,
// until the server says that it has sent everything. Then it waits for the end
// that the test has chosen, and reads the rest.
type lastBytes struct {
	name    string
	conn    *slowConn
	handled bool

	h2     *harness.HTTP2Conn // over HTTP/2
	stream *harness.Stream

	done chan struct{} // over HTTP/1.1: everything is read
	body harness.Digest
	err  error
}

// slowConn is a client's TCP connection.
type slowConn struct {
	*net.TCPConn
	harness.Trail
	handled chan struct{} // closed when the server has sent everything
	resumed chan struct{} // closed when the client is to go on then
	resume  func()        // does that
	pace    atomic.Int64  // how long it waits before it reads, if nothing is closed
}

func (c *slowConn) Read(p []byte) (int, error) {
	select {
	case <-c.handled:
		<-c.resumed
	case <-time.After(time.Duration(c.pace.Load())):
	}
	n, err := c.TCPConn.Read(p[:min(len(p), 4096)])
	c.Follow(p[:n])
	return n, err
}

// takeSlowly begins a download. Connections with a window of 0 have the default.
func takeSlowly(t testing.TB, c *harness.Caddy, name, protocol string, window int, pace time.Duration, header ...string) *lastBytes {
	t.Helper()
	var options []harness.SocketOption
	if window > 0 {
		options = append(options, harness.ReceiveBuffer(window))
	}
	l := &lastBytes{
		name: name, done: make(chan struct{}),
		conn: &slowConn{TCPConn: c.DialTCP(t, options...), handled: make(chan struct{}), resumed: make(chan struct{})},
	}
	l.conn.resume = sync.OnceFunc(func() { close(l.conn.resumed) })
	defer t.Cleanup(l.conn.resume) // before that of an HTTP2Conn
	conn := tls.Client(l.conn, c.TLSConfig(t, protocol))
	testutil.Must(t, conn.Handshake())
	l.conn.pace.Store(int64(pace))
	path := "/f?" + name
	if protocol == harness.HTTP2 {
		l.h2 = harness.NewHTTP2(t, conn, harness.WideWindows())
		l.stream = l.h2.Get(path)
		return l
	}
	harness.SendGet(t, conn, path, header...)
	go l.read(conn, strings.Contains(name, "half-closed"))
	return l
}

// read reads the response and the end of the connection.
func (l *lastBytes) read(conn *tls.Conn, halfClose bool) {
	defer close(l.done)
	reader := bufio.NewReader(conn)
	resp, err := http.ReadResponse(reader, nil)
	if err != nil {
		l.err = err
		return
	}
	d := harness.NewDigester()
	if halfClose { // not earlier: then the connection could not be moved
		_, _ = io.CopyN(d, resp.Body, 20_000)
		_ = conn.CloseWrite()
		_ = l.conn.CloseWrite()
	}
	if _, l.err = io.Copy(d, resp.Body); l.err == nil {
		var rest int64
		rest, l.err = io.Copy(io.Discard, reader)
		if rest > 0 {
			l.err = fmt.Errorf("%d bytes behind the body", rest)
		}
	}
	l.body = d.Digest()
}

// wantWhole checks that everything has come, and close_notify.
func (l *lastBytes) wantWhole(t testing.TB, f harness.File) {
	t.Helper()
	if l.h2 != nil {
		<-l.h2.Done
		l.body = harness.DigestOf(l.stream.Body)
		if !l.stream.Ended {
			l.err = fmt.Errorf("the stream has not ended: %w", l.h2.Err)
		}
	} else {
		<-l.done
	}
	if l.err != nil || l.body != f.Digest || !l.conn.CloseNotify() {
		t.Errorf("%s: %v, want %v; error %v, close_notify %v",
			l.name, l.body, f.Digest, l.err, l.conn.CloseNotify())
	}
}

// reported waits until the access log says that responses are sent whole, and
// lets the clients stop there.
func reported(t testing.TB, c *harness.Caddy, f harness.File, clients ...*lastBytes) {
	t.Helper()
	testutil.Eventually(t, "the access log has the responses", func() error {
		accesses := harness.Log(filepath.Join(c.Dir, "access")).Accesses()
		missing := 0
		for _, l := range clients {
			if l.handled {
				continue
			}
			missing++
			i := slices.IndexFunc(accesses, func(a harness.Access) bool { return a.Query() == l.name })
			if i < 0 {
				continue
			}
			l.handled = true
			missing--
			close(l.conn.handled)
			if a := accesses[i]; a.Status != http.StatusOK || a.Size != f.Size {
				t.Errorf("%s: status %d, size %d in the access log, want %d", l.name, a.Status, a.Size, f.Size)
			}
		}
		if missing > 0 {
			return fmt.Errorf("%d are missing", missing)
		}
		return nil
	})
}
