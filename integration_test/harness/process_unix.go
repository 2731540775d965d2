//go:build unix

package harness

import (
	"syscall"
	"testing"
)

// WhileStopped calls f while the process stands still. What others send to it
// meanwhile it gets at once.
func (p *Process) WhileStopped(t testing.TB, f func()) {
	t.Helper()
	p.Signal(t, syscall.SIGSTOP)
	f()
	p.Signal(t, syscall.SIGCONT)
}
