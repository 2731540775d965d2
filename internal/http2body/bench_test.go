package http2body

import (
	"fmt"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A benchWire reads the same bytes again and again, and writes nowhere.
type benchWire struct {
	in []byte
	at int
}

func (w *benchWire) Read(p []byte) (int, error) {
	n := copy(p, w.in[w.at:])
	if w.at += n; w.at == len(w.in) {
		w.at = 0
	}
	return n, nil
}
func (w *benchWire) Write(p []byte) (int, error)     { return len(p), nil }
func (w *benchWire) SetReadDeadline(time.Time) error { return nil }
func (w *benchWire) SendFrames([]byte, filerange.Segment, int64) (filerange.Sent, error) {
	return filerange.Sent{}, nil
}
func (w *benchWire) Abort()    {}
func (w *benchWire) Cork(bool) {}

// benchConn returns a connection whose preface was read.
func benchConn(b *testing.B) (*Conn, *benchWire) {
	start := fromClient(settings())
	w := &benchWire{in: start}
	c := New(w)
	for n := 0; n < len(start); {
		m, err := c.Read(make([]byte, len(start)))
		testutil.Must(b, err)
		n += m
	}
	return c, w
}

// BenchmarkInbound is what reading small frames costs, beside the connection itself.
func BenchmarkInbound(b *testing.B) {
	for _, tt := range []struct {
		name  string
		bytes []byte
	}{
		{"headers", written(headers(1, true))},
		{"update", written(update(1, 1))},
		{"ping", written(ping)},
	} {
		for _, with := range []string{"stock", "ktls"} {
			b.Run(fmt.Sprintf("frames=%s/with=%s", tt.name, with), func(b *testing.B) {
				c, w := benchConn(b)
				w.in = tt.bytes
				read := w.Read
				if with == "ktls" {
					read = c.Read
				}
				p := make([]byte, 4<<10)
				b.SetBytes(int64(len(tt.bytes)))
				b.ReportAllocs()
				for b.Loop() {
					for n := 0; n < len(tt.bytes); {
						m, err := read(p[:len(tt.bytes)-n])
						if n += m; err != nil {
							b.Fatal(err)
						}
					}
				}
			})
		}
	}
}

// BenchmarkOutbound is what an HTTP/2 server writes at once: a header, a small response
// and a large frame.
func BenchmarkOutbound(b *testing.B) {
	for _, tt := range []struct {
		name  string
		bytes []byte
	}{
		{"headers", written(headers(1, false))},
		{"small", written(headers(1, false), data(1, false, make([]byte, 1<<10)))},
		{"large", written(data(1, false, make([]byte, 16<<10)))},
	} {
		for _, with := range []string{"stock", "ktls"} {
			b.Run(fmt.Sprintf("frames=%s/with=%s", tt.name, with), func(b *testing.B) {
				c, w := benchConn(b)
				write := w.Write
				if with == "ktls" {
					write = c.Write
				}
				b.SetBytes(int64(len(tt.bytes)))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := write(tt.bytes); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
