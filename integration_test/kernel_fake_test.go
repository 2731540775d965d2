//go:build fakekernel && linux

package integration_test

import (
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// This build offloads connections: what the other tests say in it is worth something.
func TestFakeKernel(t *testing.T) {
	support, err := ktls.Probe()
	if err != nil || !support.Rekey {
		t.Fatalf("Probe: %v, %v", support, err)
	}
	c, f := harness.StartWithFile(t, harness.Large, harness.FileSite)
	before, taken := c.Metrics(t), harness.TLSStat(t, "TlsTxSw")
	for _, protocol := range harness.Protocols {
		client := c.ProtocolClient(t, protocol)
		harness.WantFile(t, client, c.URL("/f"), f)
		client.CloseIdleConnections()
	}
	c.Expect(t, before, harness.SentTimes(2, 2, 2*f.Size))
	if n := harness.TLSStat(t, "TlsTxSw") - taken; n != 2 {
		t.Errorf("the fake kernel has taken %d connections, want 2", n)
	}
}
