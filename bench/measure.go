package main

import (
	"context"
	"errors"
	"runtime"
	"time"
)

// load has h2load make that many requests, between begin and end, and asserts that
// what was done is what the case says.
func (b *bench) load(ctx context.Context, s *server, c Case, requests int, begin, end func() error) (loadResult, error) {
	l := load{c, s.url(c), requests, 1}
	if !b.job.Parameters.Counted {
		l.threads = max(1, min(c.Connections, runtime.NumCPU()/2))
	}
	w, err := newWitness(ctx, s)
	if err != nil {
		return loadResult{}, err
	}
	if err := begin(); err != nil {
		return loadResult{}, err
	}
	run := l.run
	if c.floor() {
		run = func(ctx context.Context) (loadResult, error) { return l.runFloor(ctx, s, b.site) }
	}
	r, err := run(ctx)
	if err != nil {
		return r, err
	}
	if err := end(); err != nil {
		return r, err
	}
	return r, w.check(ctx, c, c.Connections, r.bytes)
}

// A cost is what a load has cost the server.
type cost struct {
	loadResult
	cpu       float64 // nanoseconds, or instructions
	allocated float64 // bytes of Go's heap that Caddy has allocated, if they are counted
}

func (b *bench) cost(ctx context.Context, s *server, c Case, requests int) (r cost, err error) {
	if err := s.collectGarbage(ctx); err != nil {
		return r, err
	}
	var before, after counters
	r.loadResult, err = b.load(ctx, s, c, requests,
		func() error { return b.begin(ctx, s, &before) },
		func() error { return b.end(ctx, s, &after) })
	r.cpu, r.allocated = after.cpu-before.cpu, after.allocated-before.allocated
	return r, err
}

// counters are what a server has used so far.
type counters struct {
	cpu       float64
	allocated float64
}

func (b *bench) begin(ctx context.Context, s *server, c *counters) (err error) {
	if b.countsAllocations(s) {
		first, err := s.allocated(ctx)
		if err != nil {
			return err
		}
		second, err := s.allocated(ctx)
		if err != nil {
			return err
		}
		c.allocated = second + (second - first) // the question allocates too
	}
	c.cpu, err = cpuTime(s.pids)
	return err
}

func (b *bench) end(ctx context.Context, s *server, c *counters) (err error) {
	if c.cpu, err = cpuTime(s.pids); err == nil && b.countsAllocations(s) {
		c.allocated, err = s.allocated(ctx)
	}
	return err
}

// countsAllocations says whether it is counted what a server allocates.
func (b *bench) countsAllocations(s *server) bool { return b.job.uncollected() && s.caddy() }

// connectKey is the case whose cost, for each connection, is a part of every
// transfer like c. The cipher makes little difference for it.
func (b *bench) connectKey(c Case) Case {
	return Case{Kernel: c.Kernel, Workload: connect, Protocol: c.Protocol, Size: connectSize,
		Connections: b.job.Parameters.Connects, Cipher: b.job.Parameters.Ciphers[0], Server: c.Server}
}

func (b *bench) measureConnect(ctx context.Context, s *server, step step, sample *Sample) error {
	if b.job.uncollected() && step.repetition == 1 {
		// The first connections are not counted: their memory is new.
		if _, err := b.cost(ctx, s, step.Case, step.Connections); err != nil {
			return err
		}
	}
	r, err := b.cost(ctx, s, step.Case, step.Connections)
	if err != nil {
		return err
	}
	each := r.cpu / float64(step.Connections)
	b.connectCost[step.Case] = append(b.connectCost[step.Case], each)
	if b.job.Parameters.Counted {
		sample.Values["instr/conn"] = each
		if b.countsAllocations(s) {
			allocated := r.allocated / float64(step.Connections)
			b.connectAllocated[step.Case] = append(b.connectAllocated[step.Case], allocated)
			sample.Values["alloc-B/conn"] = allocated
		}
		return nil
	}
	sample.Values["cpu-us/conn"] = each / 1e3
	sample.Values["conn/s"] = float64(step.Connections) / r.duration.Seconds()
	return nil
}

// measureTransfer gives the cost of requests without that of the connections:
// what a connection with one small request costs is known from the workload
// connect and taken off. What it costs to move a connection into the kernel is
// not taken off.
func (b *bench) measureTransfer(ctx context.Context, s *server, step step, sample *Sample) error {
	if !b.job.Parameters.Counted {
		return b.measureNative(ctx, s, step, sample)
	}
	r, err := b.cost(ctx, s, step.Case, step.requests)
	if err != nil {
		return err
	}
	each, err := b.marginal(step.Case, r)
	if err != nil {
		return err
	}
	if !step.perRequest() {
		each *= 1024
	}
	sample.Values[step.costUnit()] = each
	if b.countsAllocations(s) {
		sample.Values["alloc-B/req"] = b.allocatedEach(step.Case, r)
	}
	return nil
}

// marginal returns the CPU time of a request or, if c's cost is not given per
// request, of a byte of body.
func (b *bench) marginal(c Case, r cost) (float64, error) {
	if c.floor() {
		return r.cpu / float64(r.bytes), nil
	}
	connects := b.connectCost[b.connectKey(c)]
	if len(connects) == 0 {
		return 0, errors.New("the cost of a connection was not measured")
	}
	cpu := r.cpu - float64(c.Connections)*summarize(connects).Center
	if c.perRequest() {
		return cpu / float64(r.succeeded-c.Connections), nil
	}
	return cpu / float64(r.bytes-int64(c.Connections)*connectSize), nil
}

// allocatedEach returns what a request allocates, in bytes. As in marginal, each
// connection's cost is taken off, with one small request.
func (b *bench) allocatedEach(c Case, r cost) float64 {
	requests := r.succeeded
	if c.perRequest() {
		requests -= c.Connections
	}
	connects := summarize(b.connectAllocated[b.connectKey(c)]).Center
	return (r.allocated - float64(c.Connections)*connects) / float64(requests)
}

// measureNative makes as many requests as the server answers in the time that
// was asked for, while a probe takes the time to the first byte.
func (b *bench) measureNative(ctx context.Context, s *server, step step, sample *Sample) error {
	speedKey := step.Case
	requests := 2 * step.Connections
	for b.speed[speedKey] == 0 || step.repetition == 1 {
		r, err := b.cost(ctx, s, step.Case, requests)
		if err != nil {
			return err
		}
		b.speed[speedKey] = float64(r.succeeded) / r.duration.Seconds()
		// A run too short says little about speed.
		if r.duration > 200*time.Millisecond || requests > 2000*step.Connections {
			break
		}
		requests *= 4
	}
	rounds := int(b.speed[speedKey] * b.job.Parameters.Seconds / float64(step.Connections))
	requests = max(2, rounds) * step.Connections

	probing, stop := context.WithCancel(ctx)
	defer stop()
	type probe struct {
		times []float64
		bytes int64
	}
	probed := make(chan probe, 1)
	if !step.floor() && (step.tlsCipher() == "" || step.Cipher == allCiphers[0]) {
		go func() {
			times, bytes := firstBytes(probing, s, step.Case, b.roots)
			probed <- probe{times, bytes}
		}()
	} else {
		// Go's client can't be told which cipher of TLS 1.3 to use.
		probed <- probe{}
	}
	r, err := b.cost(ctx, s, step.Case, requests)
	stop()
	p := <-probed
	if err != nil {
		return err
	}
	seconds, body := r.duration.Seconds(), r.bytes
	r.bytes += p.bytes
	r.succeeded += len(p.times)
	each, err := b.marginal(step.Case, r)
	if err != nil {
		return err
	}
	resident, err := residentSet(s.pids)
	if err != nil {
		return err
	}
	v := sample.Values
	if step.perRequest() {
		v["cpu-us/req"] = each / 1e3
	} else {
		v["cpu-s/GiB"] = each * (1 << 30) / 1e9
	}
	v["MiB/s"] = float64(body) / seconds / (1 << 20)
	v["req/s"] = float64(requests) / seconds
	v["rss-MiB"] = resident / (1 << 20)
	if len(p.times) > 0 {
		v["ttfb-p50-ms"] = percentile(p.times, 0.50)
		v["ttfb-p99-ms"] = percentile(p.times, 0.99)
	}
	return nil
}
