//go:build !unix

package harness

import "testing"

// WhileStopped can't stop a process here.
func (p *Process) WhileStopped(t testing.TB, f func()) {
	t.Helper()
	t.Skip("needs signals that stop a process")
}
