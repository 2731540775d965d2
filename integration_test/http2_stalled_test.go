package integration_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
)

// streamLot are streams of one connection with the same bodies, of which some stall,
// and the others go on.
type streamLot struct {
	*harness.HTTP2Conn
	paths           []string
	wholes          []harness.Digest
	stalled, moving []*harness.Stream
}

// openLot asks for each body twice. Streams get no more than the initial window, unless
// somebody gives it to them.
func openLot(t testing.TB, site harness.Site, f harness.File) *streamLot {
	t.Helper()
	l := &streamLot{
		HTTP2Conn: harness.OpenHTTP2(t, site, harness.Windows{Initial: 100_000, MaxFrame: 16384, Connection: 1 << 24}),
		paths:     []string{"/f", fmt.Sprintf("/proxied/known/%d", f.Size), "/proxied/unknown"},
		wholes:    []harness.Digest{f.Digest, f.Digest, f.Part(0, harness.Large)},
	}
	for _, path := range l.paths {
		l.stalled, l.moving = append(l.stalled, l.Get(path)), append(l.moving, l.Get(path))
	}
	return l
}

// next waits until something happens. It returns which of those that go on have ended,
// and which need more of a window, or that all the others are cut.
func (l *streamLot) next() (cut bool, ended, poor []int) {
	l.Wait("something happens", func() bool {
		cut, ended, poor = true, nil, nil
		for i, s := range l.moving {
			cut = cut && (l.stalled[i].Reset || l.stalled[i].Ended)
			if s.Reset || s.Ended {
				ended = append(ended, i)
			} else if s.Window < 50_000 {
				poor = append(poor, i)
			}
		}
		return cut || len(ended)+len(poor) > 0
	})
	return cut, ended, poor
}

// untilCut has some streams go on, one after the other, until the others are cut, and
// says what has come of these.
func (l *streamLot) untilCut(t testing.TB, f harness.File) string {
	t.Helper()
	for cut := false; !cut; {
		var ended, poor []int
		cut, ended, poor = l.next()
		for _, i := range poor {
			l.Grant(l.moving[i], 50_000)
		}
		for _, i := range ended {
			l.WantBody(l.moving[i], http.StatusOK, l.wholes[i])
			l.moving[i] = l.Get(l.paths[i])
		}
	}
	l.Widen()
	for i, s := range l.moving {
		l.WantBody(s, http.StatusOK, l.wholes[i])
	}
	var results []string
	for _, s := range l.stalled {
		l.WantReset(s)
		results = append(results, fmt.Sprintf("%d bytes, ended %v, reset %v with %v", l.WantPrefix(s, f), s.Ended, s.Reset, s.Code))
	}
	l.WantFile(l.Get("/f"), f)
	l.Close()
	return strings.Join(results, "; ")
}

// A stream that its client lets wait is cut by Caddy's write idle timeout, or a
// handler's, as by stock Caddy, whether its body is a file or comes from memory. The
// other streams of the connection go on.
func TestHTTP2StalledStream(t *testing.T) {
	harness.RequireKernelTLS(t)
	for _, test := range []struct{ name, server, handler string }{
		{"write_idle", "write_idle 2s", ""},
		{"a handler's timeout", "write_idle 1h", "timeouts {\nwrite_timeout 2s\n}"},
		{"a handler's timeout alone", "write_idle -1s", "timeouts {\nwrite_timeout 2s\n}"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := harness.NewCaddy(t)
			f := c.Root.AddFile(t, "f", 4<<20)
			harness.Upstream(t, c, harness.Bodies(t, f))
			c.Start(t, harness.ServerTimeouts("all", test.server)+
				harness.Replaced(t, harness.ProxySites("all"), "root {$ROOT}", "root {$ROOT}\n"+test.handler))
			before := c.Metrics(t)
			c.SameAsStock(t, func(site harness.Site) string { return openLot(t, site, f).untilCut(t, f) })
			c.Expect(t, before, harness.Counts{
				"connections:offloaded": 1, "responses:sendfile": harness.AnyNumber, "sendfile_bytes": harness.AnyNumber, "responses_failed": 1,
			})
		})
	}
	results.Fault(t, "Clients", "stalled stream", "HTTP/2, its window is not opened for longer than write_idle or a handler's timeout; a file, and proxied bodies",
		"it is reset as by stock Caddy; the other streams of the connection go on")
}
