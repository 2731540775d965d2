package fileserver

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// Whatever is written when only the announced piece of a placeholder may come, none
// of it gets out, nor what follows. What has been written before does.
func TestNothingButThePlaceholder(t *testing.T) {
	testutil.RequireKernelTLS(t, ktls.Probe)
	const header = "HTTP/1.1 200 OK\r\n\r\n"
	name, body := randomFile(t, 300_000)
	f, err := os.Open(name)
	testutil.Must(t, err)
	t.Cleanup(func() { f.Close() })
	whole := announcement{part: filerange.Segment{File: f, Len: 100_000}, first: 100_000}
	ahead := announcement{part: filerange.Segment{File: f, Len: 100_000, Ahead: 100_000}, first: 50_000}
	zeros := make([]byte, 200_000)
	steps := func(a announcement, writes ...[]byte) func(*conn) error {
		return func(c *conn) (err error) {
			c.http1.announce(a)
			_, err = io.WriteString(c, header)
			testutil.Must(t, err)
			c.http1.expect()
			for _, p := range writes {
				_, err = c.Write(p)
			}
			return err
		}
	}
	for _, tt := range []struct {
		name string
		run  func(c *conn) error
		want []byte // more may be missing at the end
	}{
		{"a byte", steps(whole, []byte("x")), nil},
		{"a copy", steps(whole, zeros[:100_000]), nil},
		{"a copy of the beginning", steps(whole, zeros[:4096]), nil},
		{"more than is held", steps(whole, zeros), nil},
		{"a shorter piece", steps(whole, placeholder[:99_999]), nil},
		{"a longer piece", steps(whole, placeholder[:100_001]), nil},
		{"a piece of the end", steps(whole, placeholder[len(placeholder)-50_000:]), nil},
		{"all, where a piece was announced", steps(ahead, placeholder[:100_000]), nil},
		{"bytes after a piece", steps(ahead, placeholder[:50_000], []byte("x")), body[:100_000]},
		{"a copy after a piece", steps(ahead, placeholder[:50_000], zeros[:50_000]), body[:100_000]},
		{"more after a piece than there is", steps(ahead, placeholder[:50_000], placeholder[:200_000]), body[:100_000]},
		{"the placeholder again", steps(whole, placeholder[:100_000], placeholder[:100_000]), body[:100_000]},
		{"before the header is out", func(c *conn) error {
			c.http1.announce(whole)
			_, err := c.Write(placeholder[:100_000])
			return err
		}, nil},
		{"never", func(c *conn) error {
			err := steps(whole)(c)
			_, err = c.http1.finish(err)
			return err
		}, nil},
		{"without an announcement", func(c *conn) error {
			_, err := c.Write(placeholder[:5000])
			return err
		}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			restoreTrust(t)
			server, client, distrusted := connPair(t)
			err := tt.run(server)
			if !errors.Is(err, errPlaceholder) && !errors.Is(err, errUnconsumed) {
				t.Errorf("error %v", err)
			}
			if _, err := io.WriteString(server, "more"); err == nil {
				t.Error("the connection goes on")
			}
			got, _ := io.ReadAll(client)
			got = bytes.TrimPrefix(got, []byte(header))
			if len(got) < len(tt.want) || !bytes.HasPrefix(body, got) {
				t.Errorf("the client got %d bytes, of the file: %v", len(got), bytes.HasPrefix(body, got))
			}
			if len(distrusted) != 1 || !http1Trust.lost.Load() {
				t.Errorf("told %d times", len(distrusted))
			}
		})
	}
}

// Nor is what comes after a failed write looked at, should something between hide the
// failure.
func TestWritesAfterAFailure(t *testing.T) {
	testutil.RequireKernelTLS(t, ktls.Probe)
	restoreTrust(t)
	name, _ := randomFile(t, 300_000)
	f, err := os.Open(name)
	testutil.Must(t, err)
	defer f.Close()
	server, _, distrusted := connPair(t)
	testutil.Must(t, server.tls.NetConn().Close())
	server.http1.announce(announcement{part: filerange.Segment{File: f, Len: 100_000, Ahead: 100_000}, first: 50_000})
	server.http1.expect()
	for _, p := range [][]byte{placeholder[:50_000], placeholder[:50_000], []byte("x")} {
		if n, err := server.Write(p); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%d bytes written, %v", n, err)
		}
	}
	if _, err := server.http1.finish(nil); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if len(distrusted) > 0 || http1Trust.lost.Load() {
		t.Error("distrusted")
	}
}

// Whatever net/http makes of the placeholder, it must be known for one.
func TestIsPlaceholder(t *testing.T) {
	for _, tt := range []struct {
		name string
		p    []byte
		want bool
	}{
		{"whole", placeholder[:], true},
		{"beginning", placeholder[:5000], true},
		{"middle", placeholder[100:][:5000], true},
		{"end", placeholder[len(placeholder)-1:], true},
		{"nothing of it", placeholder[:0], false},
		{"other", make([]byte, len(placeholder)), false},
		{"nil", nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := isPlaceholder(tt.p); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

// A panickingWriter panics when it is to be flushed, or something is written.
type panickingWriter struct{ http.ResponseWriter }

func (panickingWriter) FlushError() error         { panic("flushed") }
func (panickingWriter) Write([]byte) (int, error) { panic("written") }

// If net/http panics when it is to have the placeholder, or what goes before it,
// nothing is held back for a file that doesn't come: the connection is cut off.
func TestPanicAtThePlaceholder(t *testing.T) {
	testutil.RequireKernelTLS(t, ktls.Probe)
	name, _ := randomFile(t, 300_000)
	f, err := os.Open(name)
	testutil.Must(t, err)
	defer f.Close()
	for _, at := range []string{"flushed", "written"} {
		t.Run(at, func(t *testing.T) {
			restoreTrust(t)
			server, client, distrusted := connPair(t)
			b := &http1Body{body: &body{server: panickingWriter{}, conn: server}, flushed: at == "written"}
			func() {
				defer func() {
					if p := recover(); p != at {
						t.Errorf("panic: %v", p)
					}
				}()
				_, _ = b.sendPart(announcement{part: filerange.Segment{File: f, Len: 100_000}, first: 100_000})
			}()
			if n, err := io.WriteString(server, "more"); err == nil {
				t.Errorf("%d bytes are written after it", n)
			}
			testutil.Must(t, client.SetDeadline(time.Now().Add(time.Minute)))
			if got, err := io.ReadAll(client); len(got) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the client gets %q, %v", got, err)
			}
			if len(distrusted) > 0 || http1Trust.lost.Load() {
				t.Error("distrusted")
			}
		})
	}
}
