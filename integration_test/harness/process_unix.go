//go:build unix

package harness

import (
	"syscall"
	"testing"
)

// WhileStopped calls f while the process is stopped. When the process goes on, it gets at
// once what others have sent to it.
func (p *Process) WhileStopped(t testing.TB, f func()) {
	t.Helper()
	p.Signal(t, syscall.SIGSTOP)
	f()
	p.Signal(t, syscall.SIGCONT)
}
