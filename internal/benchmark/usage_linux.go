package benchmark

import (
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// processUsage returns the CPU time of this process, and its system calls that read, write
// or send (proc_pid_io(5)), or 0 if they are not known.
func processUsage() (u usage, err error) {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		return u, err
	}
	self, err := procfs.Self()
	if err != nil {
		return u, err
	}
	u.User, u.Kernel = time.Duration(r.Utime.Nano()), time.Duration(r.Stime.Nano())
	// Some kernels don't count them (CONFIG_TASK_IO_ACCOUNTING).
	if io, err := self.IO(); err == nil {
		// A sendfile is a read and a write there, and a sendmsg is neither.
		calls := ktls.CountedSystemCalls()
		u.Calls = int64(io.SyscR+io.SyscW) + calls.Sendmsg - calls.Sendfile
	}
	return u, nil
}

// processor returns the processor's model and features.
func processor() (model string, features []string) {
	proc, err := procfs.NewDefaultFS()
	if err != nil {
		return "", nil
	}
	all, err := proc.CPUInfo()
	if err != nil || len(all) == 0 {
		return "", nil
	}
	return all[0].ModelName, all[0].Flags
}
