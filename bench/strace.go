package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// copying are the system calls that copy as many bytes between user and kernel
// as they return. sendfile(2) and splice(2) are none of them.
var copying = map[string]bool{
	"read": true, "pread64": true, "readv": true, "preadv": true, "preadv2": true,
	"recvfrom": true, "recvmsg": true, "getrandom": true,
	"write": true, "pwrite64": true, "writev": true, "pwritev": true, "pwritev2": true,
	"sendto": true, "sendmsg": true,
}

// scheduling are the system calls of Go's scheduler, and of its memory. strace makes
// every other call so slow that there are many more of them than without it.
var scheduling = map[string]bool{
	"futex": true, "nanosleep": true, "sched_yield": true, "epoll_pwait": true, "madvise": true,
}

// A call is `PID name(` or `PID <... name resumed>` with what it has returned.
var straceCall = regexp.MustCompile(`^\d+ +(?:<\.\.\. )?(\w+)(?:\(| resumed>).* = (-?\d+|0x[0-9a-f]+|\?)(?: .*)?$`)

// parseStrace reads what strace -f -o has written: the number of calls by name,
// and the bytes that they have copied. A call that is interrupted by another
// thread's is counted when it returns.
func parseStrace(r io.Reader) (calls map[string]int64, copied int64, err error) {
	calls = map[string]int64{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		m := straceCall.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		calls[m[1]]++
		if n, err := strconv.ParseInt(m[2], 10, 64); err == nil && n > 0 && copying[m[1]] {
			copied += n
		}
	}
	return calls, copied, lines.Err()
}

// trace has strace watch processes while f runs.
func trace(ctx context.Context, pids []int, file string, f func() error) (calls map[string]int64, copied int64, err error) {
	arguments := []string{"-f", "-s", "0", "-e", "signal=none", "-o", file}
	for _, pid := range pids {
		arguments = append(arguments, "-p", strconv.Itoa(pid))
	}
	cmd := exec.CommandContext(ctx, "strace", arguments...)
	messages, err := cmd.StderrPipe()
	if err != nil {
		return nil, 0, err
	}
	if err := cmd.Start(); err != nil {
		return nil, 0, cantMeasure{err}
	}
	attached := make(chan string, 1)
	go func() {
		var text strings.Builder
		lines := bufio.NewScanner(messages)
		for n := 0; lines.Scan(); {
			fmt.Fprintln(&text, lines.Text())
			if strings.HasSuffix(lines.Text(), "attached") || strings.Contains(lines.Text(), " attached with ") {
				if n++; n == len(pids) {
					attached <- ""
				}
			}
		}
		attached <- text.String()
	}()
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	select {
	case text := <-attached:
		if text != "" {
			return nil, 0, cantMeasure{fmt.Errorf("strace can't watch the server (it needs root, or kernel.yama.ptrace_scope=0): %s", text)}
		}
	case <-time.After(time.Minute):
		return nil, 0, errors.New("strace does not say that it has attached")
	}
	if err := f(); err != nil {
		return nil, 0, err
	}
	// It detaches and writes out what it has.
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		return nil, 0, err
	}
	_ = cmd.Wait()
	output, err := os.Open(file)
	if err != nil {
		return nil, 0, err
	}
	defer output.Close()
	return parseStrace(output)
}
