package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A host builds what is measured, and boots virtual machines with it.
type host struct {
	root  string // of the repository
	work  string // for what is built
	caddy string
	bench string // this program, linked statically
}

// newHost builds Caddy.
func newHost(ctx context.Context, work string) (*host, error) {
	root, err := filepath.Abs("..")
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(root, "integration_test/vm/run")); err != nil {
		return nil, fmt.Errorf("this has to run in the folder bench of a checkout of caddy-ktls: %w", err)
	}
	h := &host{root, work, filepath.Join(work, "caddy"), filepath.Join(work, "bench")}
	return h, h.command(ctx, root, "go", "build", "-ldflags=-s -w", "-o", h.caddy, "./cmd/caddy")
}

// prepareMachines builds this program too, and fetches what virtual machines need.
func (h *host) prepareMachines(ctx context.Context) error {
	if err := h.command(ctx, filepath.Join(h.root, "bench"), "go", "build", "-ldflags=-s -w", "-o", h.bench, "."); err != nil {
		return err
	}
	return h.command(ctx, h.root, filepath.Join(h.root, "integration_test/vm/setup"))
}

// command runs a command that prints something only if it fails, or that is of
// interest.
func (h *host) command(ctx context.Context, dir, name string, arguments ...string) error {
	fmt.Fprintln(os.Stderr, "bench:", filepath.Base(name), strings.Join(arguments, " "))
	cmd := exec.CommandContext(ctx, name, arguments...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, os.Stderr, os.Stderr
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w", name, strings.Join(arguments, " "), err)
	}
	return nil
}

// boot has a virtual machine do a job and calls f for each event. It returns when
// the machine has ended, which an error of f has it do.
func (h *host) boot(ctx context.Context, j job, options []string, f func(context.Context, event) error) error {
	text, err := json.Marshal(j)
	if err != nil {
		return err
	}
	file := filepath.Join(h.work, "job.json")
	if err := os.WriteFile(file, text, 0o644); err != nil {
		return err
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	arguments := []string{"--kernel", j.Kernel, "--timeout", fmt.Sprintf("%.0f", 10*total(j.steps())+600),
		"--add", h.caddy + ":/caddy", "--add", h.bench + ":/bench", "--add", file + ":/job.json"}
	arguments = append(append(arguments, options...), "--", "/bench", "guest", "/job.json")
	cmd := exec.CommandContext(ctx, filepath.Join(h.root, "integration_test/vm/run"), arguments...)
	cmd.Stderr = os.Stderr
	// Ctrl-C is for this program, which then ends the machine.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	output, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	var failed error
	lines := bufio.NewScanner(output)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var e event
		if !strings.HasPrefix(lines.Text(), "{") || json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Fprintln(os.Stderr, "guest:", lines.Text())
			continue
		}
		if failed = f(ctx, e); e.Error != "" {
			failed = errors.New(e.Error)
		}
		if failed != nil {
			end()
			break
		}
	}
	err = cmd.Wait()
	switch {
	case failed != nil:
		return failed
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("the virtual machine with kernel %s: %w", j.Kernel, err)
	}
	return nil
}

// guestMemory returns MiB: everything in the guest is in memory.
func (p *Parameters) guestMemory() int {
	var files int64
	for _, size := range slices.Concat(p.Sizes, p.ProxySizes) {
		files += size
	}
	memory := 2048 + int(files>>20)*5/4
	if slices.Contains(p.Workloads, diskLoads) {
		memory += 2 * p.DiskFiles * int(p.DiskBytes>>10) / 1024 // the disk and its cache
	}
	if slices.Contains(p.Workloads, slow) {
		memory += 3 * p.Slow // the buffers of a connection's sockets, at both ends
	}
	return memory
}
