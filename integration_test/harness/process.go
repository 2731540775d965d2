package harness

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A Process is a program that a test has started. It ends with the test at the
// latest.
type Process struct {
	Exited <-chan struct{} // closed when it has ended

	cmd *exec.Cmd
}

// StartProcess starts a program. All it prints goes to a file. At the end of the
// test it is ended by end, or killed if end is nil.
func StartProcess(t testing.TB, cmd *exec.Cmd, logFile string, end func(*os.Process)) *Process {
	t.Helper()
	log, err := os.Create(logFile)
	testutil.Must(t, err)
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	testutil.Must(t, cmd.Start())
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }()
	t.Cleanup(func() {
		if end == nil {
			end = func(p *os.Process) { _ = p.Kill() }
		}
		end(cmd.Process)
		select {
		case <-exited:
		case <-time.After(2 * testutil.Patience):
			t.Errorf("%s does not end", cmd.Path)
			_ = cmd.Process.Kill()
			<-exited
		}
	})
	return &Process{Exited: exited, cmd: cmd}
}

// PID returns the number of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// ExitCode returns the exit code of a process that has ended.
func (p *Process) ExitCode() int { return p.cmd.ProcessState.ExitCode() }

// Signal sends a signal.
func (p *Process) Signal(t testing.TB, signal os.Signal) {
	t.Helper()
	testutil.Must(t, p.cmd.Process.Signal(signal))
}

// WaitExit waits until the process has ended, and fails the test if it doesn't.
func (p *Process) WaitExit(t testing.TB) {
	t.Helper()
	select {
	case <-p.Exited:
	case <-time.After(testutil.Patience):
		t.Fatalf("%s does not end", p.cmd.Path)
	}
}

// Stop asks the process to end, and waits until it has.
func (p *Process) Stop(t testing.TB) {
	t.Helper()
	p.Signal(t, os.Interrupt)
	p.WaitExit(t)
}
