package benchmark

import (
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// processUsage returns what the kernel knows of this process: its CPU time, and its
// system calls that read or write (proc_pid_io(5)).
func processUsage() (u usage, err error) {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		return u, err
	}
	self, err := procfs.Self()
	if err != nil {
		return u, err
	}
	io, err := self.IO()
	if err != nil {
		return u, err
	}
	u.User, u.Kernel = time.Duration(r.Utime.Nano()), time.Duration(r.Stime.Nano())
	u.Calls = int64(io.SyscR + io.SyscW)
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
