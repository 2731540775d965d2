package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// cpuTime returns how long processes have run, in nanoseconds: the kernel's own
// sum of run times, of threads that have ended too, which /proc/PID/task/*/schedstat
// would lack. In a machine with --icount that is the number of instructions,
// those that the kernel has executed on behalf of the processes included.
func cpuTime(pids []int) (float64, error) {
	var sum int64
	for _, pid := range pids {
		// MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of linux/posix-timers.h.
		clock := ^int32(pid)<<3 | 2
		var t unix.Timespec
		if err := unix.ClockGettime(clock, &t); err != nil {
			return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
		}
		sum += t.Nano()
	}
	return float64(sum), nil
}

// family returns a process and those that it has started.
func family(root int) ([]int, error) {
	names, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		if pid, parent, ok := parseStat(string(text)); ok {
			children[parent] = append(children[parent], pid)
		}
	}
	pids := []int{root}
	for i := 0; i < len(pids); i++ {
		pids = append(pids, children[pids[i]]...)
	}
	return pids, nil
}

// parseStat reads the process and its parent from /proc/PID/stat. The name in
// parentheses may contain anything.
func parseStat(text string) (pid, parent int, ok bool) {
	end := strings.LastIndexByte(text, ')')
	first, _, _ := strings.Cut(text, " ")
	if end < 0 {
		return 0, 0, false
	}
	fields := strings.Fields(text[end+1:])
	if len(fields) < 2 {
		return 0, 0, false
	}
	pid, err1 := strconv.Atoi(first)
	parent, err2 := strconv.Atoi(fields[1])
	return pid, parent, err1 == nil && err2 == nil
}

// residentSet returns the resident memory of processes, in bytes.
func residentSet(pids []int) (float64, error) {
	var sum float64
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return 0, err
		}
		n, err := procNumber(string(text), "VmRSS")
		if err != nil {
			return 0, fmt.Errorf("process %d: %w", pid, err)
		}
		sum += float64(n) * 1024
	}
	return sum, nil
}

// procNumber reads the number behind a name in a file of /proc.
func procNumber(text, name string) (int64, error) {
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) > 1 && strings.TrimSuffix(fields[0], ":") == name {
			return strconv.ParseInt(fields[1], 10, 64)
		}
	}
	return 0, fmt.Errorf("there is no %s in /proc", name)
}
