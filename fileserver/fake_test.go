//go:build fakekernel && linux

package fileserver

import (
	"testing"

	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// In this build no test is skipped for want of kernel TLS.
func TestFakeKernel(t *testing.T) {
	support, err := ktls.Probe()
	if err != nil || !support.Rekey || len(support.Ciphers()) != 6 {
		t.Errorf("Probe: %v, rekey %v, %v", support, support.Rekey, err)
	}
}
