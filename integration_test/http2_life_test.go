package integration_test

import (
	"fmt"
	"net/http"
	"os"
	"syscall"
	"testing"

	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
)

// What happens to a connection in the middle of bodies that the module sends in its
// own frames, files and proxied ones, does not harm them.
func TestHTTP2FramesLife(t *testing.T) {
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	f := c.Root.AddFile(t, "f", 2<<20)
	harness.Upstream(t, c, harness.Bodies(t, f))
	c.Start(t, harness.ProxySites("large"))
	paths := []string{"/f", fmt.Sprintf("/proxied/known/%d", f.Size), fmt.Sprintf("/now/known/%d", f.Size)}
	for _, test := range []struct {
		name string
		do   func(t *testing.T, h *harness.HTTP2Conn)
		ends bool // the connection, by GOAWAY
	}{
		{"nothing", func(*testing.T, *harness.HTTP2Conn) {}, false},
		{"GOAWAY by the client", func(_ *testing.T, h *harness.HTTP2Conn) {
			h.Send(func(f *http2.Framer) error { return f.WriteGoAway(0, http2.ErrCodeNo, nil) })
		}, true},
		{"reload", func(t *testing.T, h *harness.HTTP2Conn) {
			c.Reload(t, harness.ProxySites("all"))
			h.Wait("GOAWAY", func() bool { return h.GoAway != nil })
		}, true},
		{"SIGINT", func(t *testing.T, h *harness.HTTP2Conn) {
			c.Signal(t, syscall.SIGINT)
			h.Wait("GOAWAY", func() bool { return h.GoAway != nil })
		}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := harness.OpenHTTP2(t, c.Site, harness.Windows{Initial: 100_000, MaxFrame: 16384, Connection: 1 << 20})
			var streams []*harness.Stream
			for _, path := range paths {
				streams = append(streams, h.Get(path))
			}
			for _, s := range streams {
				h.Begun(s, 100_000)
			}
			test.do(t, h)
			h.Widen()
			for _, s := range streams {
				h.WantFile(s, f)
				h.WantOwnFrames(s)
			}
			if !test.ends {
				h.WantFile(h.Get("/f"), f)
				h.Close()
				return
			}
			<-h.Done
			if h.GoAway == nil || h.GoAway.ErrCode != http2.ErrCodeNo {
				t.Errorf("the end was %v, %v", h.Err, h.GoAway)
			}
		})
	}
	<-c.Exited
	results.Fault(t, "Server life", "GOAWAY by the client, reload or SIGINT during files and proxied bodies on one connection", "HTTP/2",
		"whole, then the connection ends")
}

// Frames that are no requests come between them, and GOAWAY at last, after which
// the server completes what it has begun.
func TestHTTP2OtherFrames(t *testing.T) {
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	f := c.Root.AddFile(t, "f.bin", 1<<20)
	c.Start(t, harness.HTTP2Site)
	before := c.Metrics(t)
	h := harness.OpenHTTP2(t, c.Site, harness.Windows{Initial: 10_000, MaxFrame: 16384, Connection: 1 << 20})
	first := h.Request(http.MethodGet, "/f.bin", "priority", "u=1, i")
	second := h.Begin(http2.PriorityParam{StreamDep: first.ID, Weight: 7, Exclusive: true}, true, harness.Fields(http.MethodGet, "/f.bin")...)
	for i := range 20 {
		h.Send(func(f *http2.Framer) error {
			_ = f.WritePriority(second.ID, http2.PriorityParam{Weight: uint8(i)})
			return f.WriteRawFrame(0xbe, 0, 0, []byte("unknown"))
		})
		h.Grant(first, int64(10*i+1))
		h.Send(func(f *http2.Framer) error { return f.WritePing(false, [8]byte{byte(i)}) })
	}
	h.Wait("PING is answered while the windows are used up", func() bool {
		return h.Pings == 20 && first.Window == 0 && second.Window == 0
	})
	h.Send(func(f *http2.Framer) error { return f.WriteGoAway(0, http2.ErrCodeNo, nil) })
	h.Widen()
	for range 5 {
		h.Send(func(f *http2.Framer) error { return f.WritePing(false, [8]byte{}) })
	}
	h.WantFile(first, f)
	h.WantFile(second, f)
	h.WantGoAway()
	c.Expect(t, before, harness.Sent(f, f))
}

// Caddy lets downloads finish when it is asked to end, and says GOAWAY.
func TestHTTP2GracefulStop(t *testing.T) {
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	f := c.Root.AddFile(t, "f.bin", 2<<20)
	c.Start(t, harness.HTTP2Site)
	h := harness.OpenHTTP2(t, c.Site, harness.Windows{Initial: 10_000, MaxFrame: 16384, Connection: 1 << 20})
	var streams []*harness.Stream
	for range 4 {
		streams = append(streams, h.Get("/f.bin"))
	}
	for _, s := range streams {
		h.Begun(s, 10_000)
	}
	c.Signal(t, os.Interrupt)
	h.Wait("GOAWAY", func() bool { return h.GoAway != nil })
	h.Widen()
	for _, s := range streams {
		h.WantFile(s, f)
	}
	h.WantGoAway()
	c.WaitExit(t)
	results.Fault(t, "Server life", "SIGINT during downloads on one connection", "HTTP/2, within the grace period", "GOAWAY, whole, then it ends")
}
