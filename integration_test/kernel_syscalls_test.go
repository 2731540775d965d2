package integration_test

import (
	"fmt"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// The claim of the module, as the kernel sees it: the connection is in the
// kernel, the body goes out by sendfile(2), and hardly a byte by write(2).
func TestSystemCalls(t *testing.T) {
	harness.RequireRealKernel(t, "it sends by write(2)")
	harness.RequireKernelTLS(t)
	harness.RequireProgram(t, "strace")
	c := harness.NewCaddy(t)
	f := c.Root.AddFile(t, "f", 64<<20)
	calls := harness.Straced(c)
	c.Start(t, harness.FileSite)
	for _, version := range []string{"--http1.1", "--http2"} {
		t.Run(version, func(t *testing.T) {
			before, connections, earlier := c.Metrics(t), harness.TLSStat(t, "TlsTxSw"), harness.AddUp(t, calls)
			c.WantCurl(t, f, version, c.URL("/f"))
			if n := harness.TLSStat(t, "TlsTxSw") - connections; n != 1 {
				t.Errorf("TlsTxSw has grown by %d, want 1", n)
			}
			var sent map[string]int64
			testutil.Eventually(t, "strace shows the body", func() error {
				sent = harness.AddUp(t, calls)
				for call, n := range earlier {
					sent[call] -= n
				}
				if n := sent["sendfile"]; n < f.Size-harness.NotByKernel {
					return fmt.Errorf("%d bytes by sendfile, want %d", n, f.Size)
				}
				return nil
			})
			t.Logf("bytes by system call: %v", sent)
			if sent["sendfile"] > f.Size {
				t.Errorf("%d bytes by sendfile, want %d", sent["sendfile"], f.Size)
			}
			delete(sent, "sendfile")
			var others int64
			for _, n := range sent {
				others += n
			}
			if others > f.Size/100 {
				t.Errorf("%d bytes by other calls, want less than 1 %% of %d", others, f.Size)
			}
			c.Expect(t, before, harness.SentByKernel(f.Size))
		})
	}
}
