//go:build linux

package integration_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// endings is a site whose connections end in several ways, and that says in a
// file of its own what it has sent.
const endings = `
{
	grace_period 30s
	servers {
		listener_wrappers {
			ktls
		}
		timeouts {
			idle ` + idleTimeout + `
		}
	}
}
https://localhost:{$PORT} {
	ktls
	root {$ROOT}
	file_server
	log {
		output file {$DIR}/access
	}
}`

// idleTimeout is longer than a slow machine takes between a handshake and its
// request.
const idleTimeout = "3s"

// A lastBytes is a client that takes what the server sends little by little,
// until the server says that it has sent everything. Then it waits for the end
// that the test has chosen, and reads the rest.
type lastBytes struct {
	name    string
	conn    *slowConn
	handled bool

	h2     *h2Conn // over HTTP/2
	stream *h2Response

	done chan struct{} // over HTTP/1.1: everything is read
	body digest
	err  error
}

// slowConn is a client's TCP connection.
type slowConn struct {
	*net.TCPConn
	handled chan struct{} // closed when the server has sent everything
	resumed chan struct{} // closed when the client is to go on then
	resume  func()        // does that
	pace    atomic.Int64  // how long it waits before it reads, if nothing is closed

	mu      sync.Mutex
	header  []byte // of the record that is being read
	left    int    // bytes of its payload that are to come
	records int
	last    int // payload of the last record
}

func (c *slowConn) Read(p []byte) (int, error) {
	select {
	case <-c.handled:
		<-c.resumed
	case <-time.After(time.Duration(c.pace.Load())):
	}
	n, err := c.TCPConn.Read(p[:min(len(p), 4096)])
	c.follow(p[:n])
	return n, err
}

// follow follows the server's records.
func (c *slowConn) follow(p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(p) > 0 {
		if c.left > 0 {
			n := min(c.left, len(p))
			c.left -= n
			p = p[n:]
			continue
		}
		c.header = append(c.header, p[0])
		if p = p[1:]; len(c.header) == 5 {
			c.left = int(c.header[3])<<8 | int(c.header[4])
			c.last = c.left
			c.header = c.header[:0]
			c.records++
		}
	}
}

// closeNotify reports whether the last record has the length of an alert in TLS
// 1.3 (level, description, type, tag). crypto/tls doesn't tell.
func (c *slowConn) closeNotify() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.left == 0 && len(c.header) == 0 && c.last == 2+1+16
}

// takeSlowly begins a download. Connections with a window of 0 have the default.
func (c *caddy) takeSlowly(t testing.TB, name, protocol string, window int, pace time.Duration, headers string) *lastBytes {
	t.Helper()
	var raw *net.TCPConn
	if window > 0 {
		raw = c.dialNarrow(t, window)
	} else {
		conn, err := net.Dial("tcp", "127.0.0.1:"+c.port)
		must(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		raw = conn.(*net.TCPConn)
	}
	l := &lastBytes{
		name: name, done: make(chan struct{}),
		conn: &slowConn{TCPConn: raw, handled: make(chan struct{}), resumed: make(chan struct{})},
	}
	l.conn.resume = sync.OnceFunc(func() { close(l.conn.resumed) })
	defer t.Cleanup(l.conn.resume) // before that of an h2Conn
	config := c.tlsConfig(t)
	config.NextProtos = []string{protocol}
	conn := tls.Client(l.conn, config)
	must(t, conn.Handshake())
	l.conn.pace.Store(int64(pace))
	path := "/f?" + name
	if protocol == http2.NextProtoTLS {
		l.h2 = newH2Conn(t, conn, wide)
		l.stream = l.h2.get(path)
		return l
	}
	_, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n", path, headers)
	must(t, err)
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
	d := newDigester()
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
	l.body = d.digest()
}

// wantWhole checks that everything has come, and close_notify.
func (l *lastBytes) wantWhole(t testing.TB, f file) {
	t.Helper()
	if l.h2 != nil {
		<-l.h2.done
		l.h2.mu.Lock()
		l.body = digestOf(l.stream.body)
		if !l.stream.ended {
			l.err = fmt.Errorf("the stream has not ended: %w", l.h2.readingErr)
		}
		l.h2.mu.Unlock()
	} else {
		<-l.done
	}
	if l.err != nil || l.body != f.digest || !l.conn.closeNotify() {
		t.Errorf("%s: %v, want %v; error %v, close_notify %v, last record of %d bytes",
			l.name, l.body, f.digest, l.err, l.conn.closeNotify(), l.conn.last)
	}
}

// reported waits until the access log says that responses are sent whole, and
// lets the clients stop there.
func (c *caddy) reported(t testing.TB, f file, clients ...*lastBytes) {
	t.Helper()
	eventually(t, "the access log has the responses", func() error {
		data, err := os.ReadFile(filepath.Join(c.dir, "access"))
		if err != nil {
			return err
		}
		missing := 0
		for _, l := range clients {
			if l.handled {
				continue
			}
			missing++
			for line := range bytes.Lines(data) {
				var entry struct {
					Status, Size int64
					Request      struct{ URI string }
				}
				if json.Unmarshal(line, &entry) != nil || entry.Request.URI != "/f?"+l.name {
					continue
				}
				l.handled = true
				missing--
				close(l.conn.handled)
				if entry.Status != http.StatusOK || entry.Size != f.size {
					t.Errorf("%s: status %d, size %d in the access log, want %d", l.name, entry.Status, entry.Size, f.size)
				}
				break
			}
		}
		if missing > 0 {
			return fmt.Errorf("%d are missing", missing)
		}
		return nil
	})
}

// serving returns how many connections Caddy's HTTP servers have not closed, that
// of the question included.
func (c *caddy) serving(t testing.TB) int {
	t.Helper()
	goroutines := c.admin(t, http.MethodGet, "/debug/pprof/goroutine?debug=2", "", "")
	return bytes.Count(goroutines, []byte("created by net/http.(*Server).Serve in"))
}

// closedAll waits until they have closed what has come since before.
func (c *caddy) closedAll(t testing.TB, before int) {
	t.Helper()
	eventually(t, "the server has closed the connections", func() error {
		if n := c.serving(t); n > before {
			return fmt.Errorf("%d are open, before %d", n, before)
		}
		return nil
	})
}

// sendBuffers sets the size of the machine's send buffers until the end of the
// test.
func sendBuffers(t *testing.T, size int) {
	t.Helper()
	const name = "/proc/sys/net/ipv4/tcp_wmem"
	before, err := os.ReadFile(name)
	must(t, err)
	if err := os.WriteFile(name, fmt.Appendf(nil, "4096 %d %d", size, size), 0); err != nil {
		missing(t, "needs root: "+err.Error())
	}
	t.Cleanup(func() { _ = os.WriteFile(name, before, 0) })
}

// What the server reports as sent arrives whole and is followed by close_notify,
// however little the client's window and the send buffer hold, and however the
// connection ends.
func TestLastBytes(t *testing.T) {
	onKernel(t, "6.1")
	requireKernelTLS(t)
	buffers := []int{64 << 10, 0}
	if long {
		// Less than a record.
		buffers = append(buffers, 4096)
	}
	for _, buffer := range buffers {
		t.Run(fmt.Sprintf("send buffer %d", buffer), func(t *testing.T) {
			if buffer > 0 {
				sendBuffers(t, buffer)
			}
			c := newCaddy(t)
			f := c.addFile(t, "f", 300_007)
			c.start(t, endings)
			wantBody(t, c.get(t, "/f"), http.StatusOK, f.digest)
			before, descriptors, serving := c.metrics(t), c.descriptors(t), c.serving(t)
			// The client reads little, or nothing if the send buffer
			// holds the whole body.
			pace := 4 * time.Millisecond
			if buffer == 0 {
				pace = patience
			}
			var ending, stopping []*lastBytes
			for _, window := range []int{2048, 0} {
				add := func(end, protocol string, pace time.Duration, headers string) {
					name := strings.ReplaceAll(fmt.Sprintf("%s-%s-%d", end, protocol, window), "/", "")
					ending = append(ending, c.takeSlowly(t, name, protocol, window, pace, headers))
				}
				add("close", "http/1.1", pace, "Connection: close\r\n")
				add("idle", "http/1.1", pace, "")
				add("idle", "h2", pace, "")
				add("half-closed", "http/1.1", 4*time.Millisecond, "")
			}
			c.reported(t, f, ending...)
			if buffer == 0 {
				// Else a GOAWAY may wait for the client.
				c.closedAll(t, serving)
			}
			for _, l := range ending {
				l.conn.resume()
			}
			for _, l := range ending {
				l.wantWhole(t, f)
			}
			n := int64(len(ending))
			c.expect(t, before, counts{"connections:offloaded": n, "responses:sendfile": n, "sendfile_bytes": n * f.size})
			c.closedAgain(t, descriptors)

			if buffer == 0 {
				// Reported as sent, and yet lost: the client goes away.
				before = c.metrics(t)
				gone := c.takeSlowly(t, "gone", "http/1.1", 2048, pace, "Connection: close\r\n")
				c.reported(t, f, gone)
				c.closedAll(t, serving)
				must(t, gone.conn.SetLinger(0))
				must(t, gone.conn.TCPConn.Close())
				gone.conn.resume()
				if <-gone.done; gone.err == nil {
					t.Error("the client that has gone has got everything")
				}
				c.expect(t, before, counts{"connections:offloaded": 1, "responses:sendfile": 1, "sendfile_bytes": f.size, "connections_lost": 1})
			}

			before = c.metrics(t)
			for _, window := range []int{2048, 0} {
				for _, protocol := range protocols {
					name := strings.ReplaceAll(fmt.Sprintf("stop-%s-%d", protocol, window), "/", "")
					stopping = append(stopping, c.takeSlowly(t, name, protocol, window, pace, ""))
				}
			}
			c.reported(t, f, stopping...)
			n = int64(len(stopping))
			c.expect(t, before, counts{"connections:offloaded": n, "responses:sendfile": n, "sendfile_bytes": n * f.size})
			must(t, c.cmd.Process.Signal(os.Interrupt))
			eventually(t, "Caddy is ending", func() error {
				if len(c.entries("servers shutting down; grace period initiated")) == 0 {
					return fmt.Errorf("not in the log")
				}
				return nil
			})
			for _, l := range stopping {
				l.conn.resume()
			}
			for _, l := range stopping {
				l.wantWhole(t, f)
			}
			select {
			case <-c.exited:
			case <-time.After(patience):
				t.Error("Caddy does not end")
			}
		})
	}
	const how = "receive buffer of the client 2 KiB or default × send buffer 64 KiB or default; the client reads little or nothing until the server reports the body as sent"
	whole := "whole, and close_notify"
	fault(t, "The last bytes", "`Connection: close`, HTTP/1.1", how, whole)
	fault(t, "The last bytes", "idle timeout of the server, HTTP/1.1 and HTTP/2", how, whole)
	fault(t, "The last bytes", "client ends its own direction, TLS and TCP, HTTP/1.1", how, whole)
	fault(t, "The last bytes", "server stops within its grace period, HTTP/1.1 and HTTP/2", how, whole)
	fault(t, "The last bytes", "client resets the connection when the body is reported as sent", "receive buffer of the client 2 KiB", "counted in `connections_lost`")
}
