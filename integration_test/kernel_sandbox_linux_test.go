package integration_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
)

// A sandbox, or a kernel, that says yes and does nothing gets nothing to send: what
// is taken for encrypted there would go out as it is.
func TestLyingSandbox(t *testing.T) {
	harness.RequireRealKernel(t, "it makes no setsockopt that could lie")
	harness.RequireSeccomp(t)
	for _, offload := range []string{"large", "all"} {
		for _, kind := range []string{harness.Lying, harness.GVisor} {
			t.Run(offload+", "+kind, func(t *testing.T) { testLyingSandbox(t, offload, kind) })
		}
	}
}

func testLyingSandbox(t *testing.T, offload, kind string) {
	c := harness.NewCaddy(t)
	harness.InSandbox(c, kind)
	f := c.Root.AddFile(t, "f", harness.Large)
	c.Start(t, harness.OffloadSite(offload))
	before := c.Metrics(t)
	for _, protocol := range harness.Protocols {
		t.Run(protocol, func(t *testing.T) {
			var wire harness.Wire
			client := c.ProtocolClient(t, protocol)
			wire.Tap(client)
			for range 2 { // the first response may decide about the second
				resp, err := harness.Try(t, client, http.MethodGet, c.URL("/f"))
				if err != nil {
					t.Error(err)
					break
				}
				harness.WantBody(t, resp, http.StatusOK, f.Digest)
			}
			client.CloseIdleConnections()
			received := wire.Content()
			if len(received) < harness.Large {
				t.Errorf("%d bytes on the wire", len(received))
			}
			if i := harness.InClear(received, f.Content); i >= 0 {
				t.Errorf("a part of the file is on the wire in clear, at byte %d of %d", i, len(received))
			}
		})
	}
	c.Expect(t, before, harness.Unsupported(2, 4))
	const why = "takes keys and encrypts nothing"
	entries := c.Log.WithReason("kernel_unsupported")
	if len(entries) == 0 || entries[0].Text("level") != "warn" || !strings.Contains(entries[0].Text("msg"), why) {
		t.Errorf("the log does not warn that the kernel %s: %v", why, entries)
	}
}

func TestCheckInLyingSandbox(t *testing.T) {
	harness.RequireRealKernel(t, "it makes no setsockopt that could lie")
	harness.RequireSeccomp(t)
	for _, kind := range []string{harness.Lying, harness.GVisor} {
		t.Run(kind, func(t *testing.T) { testCheckInLyingSandbox(t, kind) })
	}
}

func testCheckInLyingSandbox(t *testing.T, kind string) {
	c := harness.NewCaddy(t)
	harness.InSandbox(c, kind)
	_, result, code := check(t, c)
	const verdict = "no kernel TLS: the kernel, or a sandbox around this program, takes keys and encrypts nothing"
	if code != 1 || result.Works || result.Verdict != verdict {
		t.Errorf("exit code %d, works %v, verdict %q", code, result.Works, result.Verdict)
	}
	for _, c := range result.Ciphers {
		if c.Works || c.SendFile || c.Rekey || c.Error == "" {
			t.Errorf("%+v", c)
		}
	}
}
