package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
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

// native measures on this machine's kernel, a given binary of Caddy's or, if that
// is empty, one from this checkout.
func (r *run) native(ctx context.Context, caddy string) error {
	if _, err := exec.LookPath("h2load"); err != nil {
		return errors.New("h2load is needed: install nghttp2-client")
	}
	work, err := os.MkdirTemp("", "ktls-bench.")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if caddy == "" {
		h, err := newHost(ctx, work)
		if err != nil {
			return err
		}
		caddy = h.caddy
	}
	j := job{Parameters: r.results.Parameters, Kernel: kernelRelease()}
	if err := r.plan([]job{j}); err != nil {
		return err
	}
	b, err := startBench(ctx, j, programs{caddy, findNginx()}, work, func(e event) { r.take(j, e) })
	if err != nil {
		return err
	}
	return b.run(ctx)
}

// counted measures in virtual machines.
func (r *run) counted(ctx context.Context) error {
	work, err := os.MkdirTemp("", "ktls-bench.")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	h, err := newHost(ctx, work)
	if err != nil {
		return err
	}
	if err := h.prepareMachines(ctx); err != nil {
		return err
	}
	r.results.Machine.Versions["qemu"] = version(ctx, "qemu-system-x86_64", "--version")
	jobs := r.results.Parameters.jobs()
	if err := r.plan(jobs); err != nil {
		return err
	}
	for _, j := range jobs {
		if j.Serve {
			err = r.measureOutside(ctx, h, j)
		} else {
			err = r.measureInside(ctx, h, j)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// measureInside has a virtual machine measure servers that are in it.
func (r *run) measureInside(ctx context.Context, h *host, j job) error {
	options := []string{"--memory", fmt.Sprint(j.Parameters.guestMemory())}
	if !j.Parameters.Timed {
		options = append(options, "--icount")
	}
	if j.Network {
		options = append(options, networkOptions()...)
	}
	return h.boot(ctx, j, options, func(_ context.Context, e event) error {
		r.take(j, e)
		return nil
	})
}

// plan says what is to come.
func (r *run) plan(jobs []job) error {
	var steps []step
	for _, j := range jobs {
		steps = append(steps, j.steps()...)
	}
	if len(steps) == 0 {
		return errors.New("nothing is left to measure; -max-bytes and -full allow more")
	}
	r.progress = newProgress(r.log, len(steps), total(steps))
	return nil
}

// take takes an event of a job.
func (r *run) take(j job, e event) {
	if e.Machine != nil {
		maps.Copy(r.results.Machine.Versions, e.Machine.Versions)
		if k := (KernelRun{j.Kernel, e.Machine.Kernel}); !slices.Contains(r.results.Kernels, k) {
			r.results.Kernels = append(r.results.Kernels, k)
		}
	}
	if e.Note != "" {
		fmt.Fprintln(r.log, "note:", e.Note)
		r.results.note("%s", e.Note)
	}
	if steps := j.steps(); e.Step > 0 && e.Step <= len(steps) {
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
