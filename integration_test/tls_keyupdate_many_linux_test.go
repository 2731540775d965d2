package integration_test

import (
	"bytes"
	"fmt"
	"testing"

	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
)

// manyUpdates is a download during which the client sends KeyUpdates, each when some more
// of the body has come.
type manyUpdates struct {
	protocol string
	times    int
	asks     bool // for a KeyUpdate in return
	data     bool // sends data between two KeyUpdates, as a client of HTTP/2 does that opens its windows
}

// maxUseless is how many KeyUpdates in a row crypto/tls takes.
const maxUseless = 16

// cut reports whether crypto/tls ends the connection.
func (u manyUpdates) cut() bool { return u.times > maxUseless && !u.data }

// retires reports whether the client asks for what the kernel can't do.
func (u manyUpdates) retires(t testing.TB) bool { return u.asks && !harness.Rekeys(t) }

// download says what the client has got, and what comes next on the connection: another
// file, or its end.
func (u manyUpdates) download(t testing.TB, site harness.Site, f, small harness.File, ends bool) string {
	t.Helper()
	r := harness.OpenRecords(t, site, u.protocol)
	defer r.Raw.Close()
	p := r.OftenDuring("/f", u.times, 20_000, func(r *harness.RecordClient) []byte {
		record := r.KeyUpdate(t, u.asks)
		if u.data {
			var frame bytes.Buffer
			_ = http2.NewFramer(&frame, nil).WriteWindowUpdate(0, 20_000)
			record = append(record, r.Data(frame.String())...)
		}
		return record
	})
	switch result := p.Is(f); {
	case result != "whole" && u.losesAlert():
		return p.IsCut(t, f)
	case result != "whole":
		return result
	case ends:
		return "whole, then " + r.End()
	}
	return "whole, then " + r.Get("/small").Is(small)
}

// losesAlert reports whether the alert of a server that ends the connection may be lost:
// over HTTP/2 the server closes at once, and a client that goes on sending is reset.
func (u manyUpdates) losesAlert() bool { return u.protocol == harness.HTTP2 || u.times > maxUseless+1 }

// wants returns what comes of it on the site without the module, and on the site with it.
func (u manyUpdates) wants(t testing.TB) (stock, ours string) {
	t.Helper()
	switch {
	case u.cut() && u.losesAlert():
		return "cut", "cut"
	case u.cut():
		stock = harness.Beginning + "remote error: tls: unexpected message"
		return stock, stock
	}
	stock = "whole, then whole"
	switch {
	case u.retires(t) && u.protocol == harness.HTTP2:
		return stock, "whole, then GOAWAY NO_ERROR, close_notify"
	case u.retires(t):
		return stock, "whole, then close_notify"
	}
	return stock, stock
}

// counts returns what it changes in the counters.
func (u manyUpdates) counts(t testing.TB, f harness.File) harness.Counts {
	t.Helper()
	want := harness.SentByKernel(f.Size)
	if u.cut() {
		want["responses_failed"], want["sendfile_bytes"] = 1, harness.AnyNumber
	}
	if u.asks {
		want = answered(t, want, harness.AnyNumber)
	}
	return want
}

func (u manyUpdates) test(t *testing.T, c *harness.Caddy, f, small harness.File) {
	before := c.Metrics(t)
	wantStock, want := u.wants(t)
	if got := u.download(t, c.Stock(), f, small, false); got != wantStock {
		t.Errorf("without the module: %s, want %s", got, wantStock)
	}
	if got := u.download(t, c.Site, f, small, u.retires(t)); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	c.Expect(t, before, u.counts(t, f))
	answers := c.Metrics(t)["key_updates"] - before["key_updates"]
	if rekeys := u.asks && !u.retires(t); rekeys != (answers > 0) || answers > int64(u.times) {
		t.Errorf("%d KeyUpdates in return", answers)
	}
}

// crypto/tls ends a connection at the 17th KeyUpdate without data between. Otherwise the
// body is whole.
func TestManyKeyUpdates(t *testing.T) {
	if !harness.InOwnNetwork(t) {
		return
	}
	// The server can't send much more than the client reads.
	harness.Sysctl(t, "ipv4/tcp_wmem", smallBuffers)
	c := harness.NewCaddy(t)
	f := c.Root.AddFile(t, "f", 1200<<10)
	small := c.Root.AddFile(t, "small", 1000)
	c.Start(t, harness.BothSites())
	trace := harness.TraceOf(t, c)
	for _, u := range []manyUpdates{
		{protocol: harness.HTTP1, times: maxUseless},
		{protocol: harness.HTTP1, times: maxUseless + 1},
		{protocol: harness.HTTP1, times: 40},
		{protocol: harness.HTTP2, times: maxUseless},
		{protocol: harness.HTTP2, times: maxUseless + 1},
		{protocol: harness.HTTP2, times: 40, data: true},
	} {
		for _, u.asks = range []bool{false, true} {
			t.Run(fmt.Sprintf("%d over %s, asks %v, data %v", u.times, u.protocol, u.asks, u.data), func(t *testing.T) {
				u.test(t, c, f, small)
			})
		}
	}
	harness.WantNothingLeft(t, c, trace)
	result := "whole and answered, as by stock Caddy"
	if !harness.Rekeys(t) {
		result = "whole; then the connection is closed, over HTTP/2 with GOAWAY"
	}
	const kind, what, how = "Clients", "KeyUpdates during a slow download", "16 over HTTP/1.1 and HTTP/2; 40 over HTTP/2 with WINDOW_UPDATE between"
	results.Fault(t, kind, what, how, "whole, as with stock Caddy")
	results.Fault(t, kind, what+", which ask for KeyUpdates in return", how, result)
	results.Fault(t, kind, what+", which ask for KeyUpdates in return or not", "17 over HTTP/1.1 and HTTP/2, 40 over HTTP/1.1",
		"cut at the 17th, as by stock Caddy; over HTTP/1.1 by the same alert")
}
