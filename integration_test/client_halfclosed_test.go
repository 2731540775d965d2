package integration_test

import (
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A client may shut its side when it has sent its request, or in the middle of the
// response.
func TestHalfClosed(t *testing.T) {
	harness.OnKernel(t, "6.1")
	harness.RequireKernelTLS(t)
	c, f := harness.StartWithFile(t, harness.Huge, harness.BothSites())
	before := harness.TraceOf(t, c)
	for _, test := range []struct {
		how    string
		notify bool
	}{{"FIN", false}, {"close_notify and FIN", true}} {
		for _, protocol := range harness.Protocols {
			t.Run(test.how+", "+protocol, func(t *testing.T) {
				before := c.Metrics(t)
				result := c.SameAsStock(t, func(site harness.Site) string {
					r := harness.OpenRecords(t, site, protocol)
					result := r.During("/f", func(r *harness.RecordClient) []byte {
						if test.notify {
							_, err := r.Raw.Write(r.Record(harness.Alert, []byte{1, 0}, 0))
							testutil.Must(t, err)
						}
						testutil.Must(t, r.Raw.CloseWrite())
						return nil
					}).IsCut(t, f)
					end := r.End() // the server closes its side
					if result == "whole" {
						result += ", then " + end
					}
					_ = r.Raw.Close()
					return result
				})
				t.Log(result)
				want := harness.SentByKernel(f.Size)
				if result == "cut" {
					want["responses_failed"], want["sendfile_bytes"] = 1, harness.AnyNumber
				}
				c.Expect(t, before, want)
			})
		}
	}
	for _, entry := range c.Log.WithMessage("response") {
		if n, _ := entry["copied_bytes"].(float64); n < 0 {
			t.Errorf("%v bytes were copied: %v", n, entry)
		}
	}
	harness.WantNothingLeft(t, c, before)
	results.Fault(t, "Clients", "half-closed connection", "FIN, or close_notify and FIN, in the middle of a response",
		"HTTP/1.1: whole; HTTP/2: cut; as with stock Caddy")
}
