package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"time"
)

// A run collects what is measured and writes it after each sample.
type run struct {
	results  *Results
	out      string
	progress *progress
	log      io.Writer
}

func newRun(p Parameters, mode, out string, log io.Writer) (*run, error) {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return nil, err
	}
	return &run{
		results: &Results{Mode: mode, Started: time.Now(), Partial: true, Parameters: p, Machine: thisMachine()},
		out:     out, log: log,
	}, nil
}

// take takes an event that belongs to a step of a list.
func (r *run) take(steps []step, e event) {
	if e.Note != "" {
		fmt.Fprintln(r.log, "note:", e.Note)
		r.results.note("%s", e.Note)
	}
	if e.Step > 0 && e.Step <= len(steps) {
		r.progress.step(steps[e.Step-1], e.Sample)
	}
	if e.Sample == nil {
		return
	}
	r.results.Samples = append(r.results.Samples, *e.Sample)
	if err := r.results.save(r.out); err != nil {
		fmt.Fprintln(r.log, "bench:", err)
	}
}

// finish writes the report, of a part if err says that the run was not finished.
func (r *run) finish(err error) error {
	r.results.Finished = time.Now()
	r.results.Partial = err != nil
	switch {
	case errors.Is(err, context.Canceled):
		r.results.note("The run was interrupted.")
	case err != nil:
		r.results.note("The run has failed: %v", err)
	}
	if len(r.results.Samples) == 0 {
		return err
	}
	if werr := r.results.write(r.out); werr != nil {
		return errors.Join(err, werr)
	}
	fmt.Fprintf(r.log, "\nThe report is %s/report.md\n", r.out)
	if errors.Is(err, context.Canceled) {
		return errors.New("interrupted; what was done is written")
	}
	return err
}

// native measures on this machine's kernel, a given binary of Caddy's or, if that
// is empty, one from this checkout.
func native(ctx context.Context, r *run, caddy string) error {
	p := r.results.Parameters
	work, err := os.MkdirTemp("", "ktls-bench.")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	prog := programs{caddy: caddy, nginx: findNginx()}
	if caddy == "" {
		h, err := newHost(ctx, work, false)
		if err != nil {
			return err
		}
		prog = h.prog
	}
	r.results.Machine.addVersions(ctx, prog)
	if r.results.Machine.Versions["caddy"] == "" {
		return fmt.Errorf("-caddy: %s can't be run", prog.caddy)
	}
	if r.results.Machine.Versions["h2load"] == "" {
		return errors.New("h2load is needed: install nghttp2-client")
	}
	kernel := kernelRelease()
	r.results.Kernels = []KernelRun{{kernel, kernel}}
	steps := p.steps(kernel)
	if len(steps) == 0 {
		return errNothing
	}
	r.progress = newProgress(r.log, len(steps), total(steps))
	b, err := newBench(ctx, p, kernel, prog, work, func(e event) { r.take(steps, e) })
	if err != nil {
		return err
	}
	return b.run(ctx, kernel)
}

var errNothing = errors.New("nothing is left to measure; -max-bytes and -full allow more")

func total(steps []step) (seconds float64) {
	for _, s := range steps {
		seconds += s.estimate
	}
	return seconds
}

// bootSeconds is how long a machine takes to boot and to start the servers,
// emulated.
const bootSeconds = 25

// counted measures in virtual machines.
func counted(ctx context.Context, r *run) error {
	p := r.results.Parameters
	work, err := os.MkdirTemp("", "ktls-bench.")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	h, err := newHost(ctx, work, true)
	if err != nil {
		return err
	}
	qemu := version(ctx, "qemu-system-x86_64", "--version")
	r.results.Machine.Versions["qemu"] = qemu

	n, seconds := 0, 0.0
	for _, kernel := range p.Kernels {
		if steps := p.steps(kernel); len(steps) > 0 {
			n += len(steps)
			seconds += total(steps) + bootSeconds
		}
	}
	memorySteps := p.memorySteps()
	if n+len(memorySteps) == 0 {
		return errNothing
	}
	plugin := ""
	if len(memorySteps) > 0 {
		if plugin, err = h.buildPlugin(ctx); err != nil {
			return err
		}
	}
	r.progress = newProgress(r.log, n+len(memorySteps), seconds+total(memorySteps))
	for _, kernel := range p.Kernels {
		steps := p.steps(kernel)
		if len(steps) == 0 {
			continue
		}
		limit := time.Duration(10*total(steps)+600) * time.Second
		options := []string{"--memory", strconv.Itoa(p.guestMemory())}
		if !p.Timed {
			options = append(options, "--icount")
		}
		if err := h.boot(ctx, job{Parameters: p, Kernel: kernel}, limit, options, func(e event) {
			if r.learn(kernel, e); e.Machine != nil {
				r.progress.done += bootSeconds
			}
			r.take(steps, e)
		}); err != nil {
			return err
		}
	}
	if len(memorySteps) > 0 {
		return r.countMemory(ctx, h, plugin, memorySteps)
	}
	return nil
}

// learn takes what a guest says of itself.
func (r *run) learn(kernel string, e event) {
	if e.Machine == nil {
		return
	}
	qemu := r.results.Machine.Versions["qemu"]
	r.results.Machine.Versions = e.Machine.Versions
	r.results.Machine.Versions["qemu"] = qemu
	k := KernelRun{kernel, e.Machine.Kernel}
	if !slices.Contains(r.results.Kernels, k) {
		r.results.Kernels = append(r.results.Kernels, k)
	}
}
