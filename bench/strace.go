package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
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

func (b *bench) measureSyscalls(ctx context.Context, s *server, step step, sample *Sample) error {
	var cmd *exec.Cmd
	file := filepath.Join(b.dir, "strace")
	begin := func() (err error) { cmd, err = startStrace(ctx, s.pids, file); return err }
	end := func() error {
		// It detaches and writes out what it has.
		err := cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
		return err
	}
	r, err := b.load(ctx, s, step.Case, max(step.requests, 4), begin, end)
	if cmd != nil && cmd.ProcessState == nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	if err != nil {
		return fmt.Errorf("under strace: %w", err)
	}
	output, err := os.Open(file)
	if err != nil {
		return err
	}
	defer output.Close()
	calls, copied, err := parseStrace(output)
	if err != nil {
		return err
	}
	var sum int64
	for name, n := range calls {
		if !scheduling[name] {
			sum += n
		}
	}
	sample.Calls = calls
	sample.Values["border-B/B"] = float64(copied) / float64(r.bytes)
	sample.Values["syscalls/MiB"] = float64(sum) / float64(r.bytes) * (1 << 20)
	return nil
}

// startStrace has strace watch processes, and returns when it has attached to them.
func startStrace(ctx context.Context, pids []int, file string) (*exec.Cmd, error) {
	arguments := []string{"-f", "-s", "0", "-e", "signal=none", "-o", file}
	for _, pid := range pids {
		arguments = append(arguments, "-p", strconv.Itoa(pid))
	}
	cmd := exec.CommandContext(ctx, "strace", arguments...)
	messages, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, cantMeasure{err}
	}
	attached := make(chan string, 2)
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
	select {
	case text := <-attached:
		if text != "" {
			return cmd, cantMeasure{fmt.Errorf("strace can't watch the server (it needs root, or kernel.yama.ptrace_scope=0): %s", text)}
		}
	case <-time.After(time.Minute):
		return cmd, errors.New("strace does not say that it has attached")
	}
	return cmd, nil
}
