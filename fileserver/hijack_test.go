package fileserver

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// A handler that copies a file after it has taken the connection over is told, as it
// would be by net/http, and what it writes to the connection arrives.
func TestCopyAfterHijack(t *testing.T) {
	testutil.RequireKernelTLS(t, ktls.Probe)
	name, body := randomFile(t, 300_000)
	tail := bytes.Repeat([]byte("tail"), 5000)
	for _, idle := range []time.Duration{0, time.Minute} {
		for _, offloaded := range []bool{false, true} {
			t.Run(fmt.Sprintf("idle timeouts %v, offloaded %v", idle, offloaded), func(t *testing.T) {
				restoreTrust(t)
				copied, written := make(chan error, 1), make(chan error, 1)
				s := newSite(t, 0, idle, func(w http.ResponseWriter, r *http.Request) {
					f, err := os.Open(name)
					testutil.Must(t, err)
					defer f.Close()
					w.Header().Set("Content-Length", fmt.Sprint(len(body)))
					if r.URL.Path == "/file" {
						_, _ = io.Copy(w, f)
						return
					}
					w.Header().Set("Content-Type", "x/y")
					w.WriteHeader(http.StatusOK)
					conn, _, err := http.NewResponseController(w).Hijack()
					testutil.Must(t, err)
					defer conn.Close()
					copied <- func() (err error) {
						defer func() {
							if p := recover(); p != nil {
								err = fmt.Errorf("panic: %v", p)
							}
						}()
						_, err = io.Copy(w, f)
						return err
					}()
					_, err = conn.Write(tail)
					written <- err
				})
				conn := s.dial(t)
				br := bufio.NewReader(conn)
				if offloaded {
					_, err := io.WriteString(conn, "GET /file HTTP/1.1\r\nHost: x\r\n\r\n")
					testutil.Must(t, err)
					response, err := http.ReadResponse(br, nil)
					testutil.Must(t, err)
					got, err := io.ReadAll(response.Body)
					<-s.handled // which may be after the last byte has arrived
					if err != nil || sha256.Sum256(got) != sha256.Sum256(body) || s.sent.Load() == 0 {
						t.Fatalf("%d bytes, %v, %d by sendfile", len(got), err, s.sent.Load())
					}
				}
				_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
				testutil.Must(t, err)
				got, err := io.ReadAll(br)
				_, got, _ = bytes.Cut(got, []byte("\r\n\r\n"))
				if err != nil || !bytes.Equal(got, tail) {
					t.Errorf("got %d bytes of %d, %v", len(got), len(tail), err)
				}
				if err := <-copied; !errors.Is(err, http.ErrHijacked) {
					t.Errorf("the copy ends with %v", err)
				}
				if err := <-written; err != nil {
					t.Error(err)
				}
				if len(s.distrusted) > 0 {
					t.Error("distrusted")
				}
			})
		}
	}
}

// A holdingConn writes what it has got only when it is closed, or its sending side.
type holdingConn struct {
	net.Conn
	held *bytes.Buffer
}

func (c holdingConn) Write(p []byte) (int, error) { return c.held.Write(p) }

func (c holdingConn) Close() error {
	_, _ = c.Conn.Write(c.held.Bytes())
	return c.Conn.Close()
}

// A closingConn is a holdingConn whose sending side can be closed.
type closingConn struct{ holdingConn }

func (c closingConn) CloseWrite() error {
	_, err := c.Conn.Write(c.held.Bytes())
	c.held.Reset()
	return errors.Join(err, c.Conn.(*conn).CloseWrite())
}

// The sending side of a connection that was taken over is not closed behind the back
// of a wrapper, which may still hold bytes.
func TestCloseWriteOfHijacked(t *testing.T) {
	body := bytes.Repeat([]byte("hello "), 20_000)
	for _, tt := range []struct {
		name string
		wrap func(net.Conn) net.Conn
		can  bool // close one half
	}{
		{"no wrapper", func(c net.Conn) net.Conn { return c }, true},
		{"wrapper that holds bytes", func(c net.Conn) net.Conn { return holdingConn{c, new(bytes.Buffer)} }, false},
		{"wrapper that can do it", func(c net.Conn) net.Conn { return closingConn{holdingConn{c, new(bytes.Buffer)}} }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			can := make(chan bool, 1)
			outer := func(inner net.Listener) net.Listener {
				return testutil.WrappingListener{Listener: inner, Wrap: tt.wrap}
			}
			s := newWrappedSite(t, 0, time.Minute, nil, outer, func(w http.ResponseWriter, _ *http.Request) {
				conn, _, err := http.NewResponseController(w).Hijack()
				testutil.Must(t, err)
				defer conn.Close()
				_, err = conn.Write(body)
				testutil.Must(t, err)
				half, ok := conn.(interface{ CloseWrite() error })
				if ok {
					testutil.Must(t, half.CloseWrite())
				}
				can <- ok
			})
			conn := s.dial(t)
			_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			testutil.Must(t, err)
			got, err := io.ReadAll(conn)
			testutil.WantError(t, err, nil)
			testutil.SameBody(t, got, body)
			if got := <-can; got != tt.can {
				t.Errorf("the sending side can be closed: %v", got)
			}
		})
	}
}
