package ktls

import (
	"crypto/tls"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// The shapes with the kernel's own records.
func TestShapesKernel(t *testing.T) {
	testutil.RequireKernelTLS(t, Probe)
	t.Run("half-closed", func(t *testing.T) { testHalfClosed(t, kernelShapes) })
	t.Run("TLS 1.2", func(t *testing.T) { testTLS12(t, kernelShapes) })
	t.Run("offloaded", func(t *testing.T) { testShapes(t, kernelShapes) })
	t.Run("refused", func(t *testing.T) { testShapesRefused(t, kernelShapes) })
	t.Run("ECH rejected", func(t *testing.T) { testShapesECHRejected(t, kernelShapes) })
}

// kernelShapes makes a server that uses the kernel, and checks in the end that
// the kernel has what the server says that it has offloaded.
func kernelShapes(t testing.TB, config *tls.Config, mode mode) *fakeServer {
	s := newFakeServer(t, config, mode, nil)
	s.support, s.newKernel = testutil.RequireKernelTLS(t, Probe), newSocket
	before := txSockets(t)
	t.Cleanup(func() {
		offloaded := 0
		for _, d := range s.decisions {
			if d.state == Offloaded {
				offloaded++
			}
		}
		wantTxSockets(t, before, offloaded)
	})
	return s
}
