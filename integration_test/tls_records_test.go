package integration_test

import (
	"bytes"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// An unusual is a request in records that a client is free to send, or, if it is not
// answered, not.
type unusual struct {
	what, how string
	// segments returns what is written at a time.
	segments func(r *harness.RecordClient, request string) [][]byte
	answered bool
}

var unusuals = []unusual{
	{"fragments", "a request of which each byte is a record", func(r *harness.RecordClient, request string) (segments [][]byte) {
		for i := range request {
			segments = append(segments, r.Data(request[i:i+1]))
		}
		return segments
	}, true},
	{"fragments", "a request in records that come a byte at a time", func(r *harness.RecordClient, request string) (segments [][]byte) {
		record := append(r.Data(request[:1]), r.Data(request[1:])...)
		for i := range record {
			segments = append(segments, record[i:i+1])
		}
		return segments
	}, true},
	{"padding", "a request in a record of the greatest length", func(r *harness.RecordClient, request string) [][]byte {
		return [][]byte{r.Record(harness.ApplicationData, []byte(request), 1<<14-len(request))}
	}, true},
	{"records of length 0", "16 in a row", func(r *harness.RecordClient, request string) [][]byte {
		return [][]byte{append(empty(r, 16), r.Data(request)...)}
	}, true},
	{"records of length 0", "17 in a row", func(r *harness.RecordClient, _ string) [][]byte {
		return [][]byte{empty(r, 17)}
	}, false},
	{"records of length 0", "16 before each byte of a request", func(r *harness.RecordClient, request string) [][]byte {
		var records [][]byte
		for i := range request {
			records = append(records, empty(r, 16), r.Data(request[i:i+1]))
		}
		return [][]byte{bytes.Join(records, nil)}
	}, true},
}

// empty makes records without content.
func empty(r *harness.RecordClient, n int) (records []byte) {
	for range n {
		records = append(records, r.Data("")...)
	}
	return records
}

// ask gets a file, sends the request for it once more in its own way, and says what
// comes of that.
func (u unusual) ask(t testing.TB, site harness.Site, protocol string, f harness.File) string {
	t.Helper()
	r := harness.OpenRecords(t, site, protocol)
	first := r.Get("/f").Is(f)
	for _, segment := range u.segments(r, r.Request("/f")) {
		_, err := r.Raw.Write(segment)
		testutil.Must(t, err)
	}
	if !u.answered {
		return first + ", then " + r.End()
	}
	second := r.Response().Is(f)
	_ = r.Raw.Close()
	return first + ", then " + second
}

func TestUnusualRecords(t *testing.T) {
	harness.OnKernel(t, "7.2")
	harness.RequireKernelTLS(t)
	c, f := harness.StartWithFile(t, harness.MinSize+100, harness.BothSites())
	for _, test := range unusuals {
		want, times, verdict := "whole, then whole", int64(2), "answered, as by stock Caddy"
		if !test.answered {
			want, times = "whole, then remote error: tls: unexpected message", 1
			verdict = "connection ended by an alert, as by stock Caddy"
		}
		for _, protocol := range harness.Protocols {
			t.Run(test.how+", "+protocol, func(t *testing.T) {
				before := c.Metrics(t)
				result := c.SameAsStock(t, func(site harness.Site) string { return test.ask(t, site, protocol, f) })
				if result != want {
					t.Errorf("%s, want %s", result, want)
				}
				c.Expect(t, before, harness.SentTimes(1, times, times*f.Size))
			})
		}
		results.Fault(t, "Clients", test.what, test.how, verdict)
	}
}
