package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// A bench measures servers, which run all at once: those that have no requests
// cost nothing.
type bench struct {
	job     job
	dir     string
	site    site
	servers map[string]*server
	roots   *x509.CertPool
	// report is called with each sample, and with notes.
	report func(event)
	// cache is a model through which the servers' memory accesses go, nil without.
	cache *cacheModel
	// connectCost has what a connection with one request costs, in nanoseconds or
	// instructions.
	connectCost map[Case][]float64
	// connectAllocated has what Caddy allocates for it, in bytes, where that is counted.
	connectAllocated map[Case][]float64
	// verified has what was compared: server, protocol and address.
	verified map[string]bool
	// sequences are the times of the workload sequence, in microseconds.
	sequences map[Case][]float64
	// link is the network of a guest that has one.
	link *link
	// speed is in requests per second, in native mode.
	speed map[Case]float64
	disk  *disk // of the workload disk, made with its first step
}

// An event is what a guest tells the host, one a line.
type event struct {
	Step    int      `json:"step"` // steps done
	Sample  *Sample  `json:"sample,omitempty"`
	Note    string   `json:"note,omitempty"`
	Machine *Machine `json:"machine,omitempty"`
	Ready   bool     `json:"ready,omitempty"`
	Error   string   `json:"error,omitempty"`
}

// newBench makes the site with files of some sizes.
func newBench(j job, dir string, sizes []int64, report func(event)) (*bench, error) {
	b := &bench{
		job: j, dir: dir, site: site{filepath.Join(dir, "site")}, report: report, servers: map[string]*server{},
		connectCost: map[Case][]float64{}, connectAllocated: map[Case][]float64{}, verified: map[string]bool{}, sequences: map[Case][]float64{}, speed: map[Case]float64{},
	}
	if err := os.MkdirAll(b.site.dir, 0o755); err != nil {
		return nil, err
	}
	for _, size := range sizes {
		if err := b.site.add(size); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// startBench makes the site of a job and starts its servers. It leaves out those
// that can't run here, with a note.
func startBench(ctx context.Context, j job, programs programs, dir string, report func(event)) (*bench, error) {
	m := thisMachine()
	m.addVersions(ctx, programs)
	report(event{Machine: &m})
	sizes := append(j.sizes(), switchSize) // for warming up
	if j.Network {
		sizes = slices.Concat(sizes, keepAliveSizes)
	}
	b, err := newBench(j, dir, sizes, report)
	if err != nil {
		return nil, err
	}
	if b.roots, err = writeCertificate(dir); err != nil {
		return nil, err
	}
	for _, name := range allServers {
		if !j.Parameters.starts(name) {
			continue
		}
		s := &server{name: name, dir: filepath.Join(dir, name)}
		if s.nginx() && programs.nginx == "" {
			report(event{Note: "nginx is not installed, so it was not measured"})
			continue
		}
		if err := s.choosePorts(j.Serve || j.Network); err != nil {
			return nil, err
		}
		s.uncollected = j.uncollected()
		if j.Parameters.proxies() && name != plain {
			s.backend = b.servers[plain].port
		}
		if err := s.start(ctx, programs, b.site, dir); err != nil {
			return nil, err
		}
		b.servers[name] = s
	}
	if j.Serve {
		return b, nil // clients outside begin with runs that aren't counted
	}
	if j.Network {
		if b.link, err = newLink(ctx); err != nil {
			return nil, err
		}
	}
	return b, b.warmUp(ctx)
}

// warmUp has every server make the first connections, which cost more, and
// looks at what they cost without requests.
func (b *bench) warmUp(ctx context.Context) error {
	for name, s := range b.servers {
		if isFloor(name) {
			continue
		}
		for _, protocol := range b.job.Parameters.Protocols {
			c := Case{Protocol: protocol, Size: switchSize, Connections: 16, Cipher: allCiphers[0], Server: name}
			if _, err := (load{c, s.url(c), 64, 1}).run(ctx); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	const pause = 2 * time.Second
	before := map[string]float64{}
	for name, s := range b.servers {
		before[name], _ = cpuTime(s.pids)
	}
	if err := sleep(ctx, pause); err != nil {
		return err
	}
	for name, s := range b.servers {
		after, err := cpuTime(s.pids)
		if err != nil {
			return err
		}
		if part := (after - before[name]) / float64(pause); part > 0.01 {
			b.report(event{Note: fmt.Sprintf("%s takes %.1f %% of a CPU without requests", name, 100*part)})
		}
	}
	return nil
}

// run takes the samples of the job.
func (b *bench) run(ctx context.Context) error {
	skipped := map[string]bool{}
	for i, step := range b.job.steps() {
		done := event{Step: i + 1}
		if s := b.servers[step.Server]; s != nil && !skipped[step.Workload] {
			start := time.Now()
			sample := Sample{Case: step.Case, Repetition: step.repetition, Values: map[string]float64{}}
			err := b.measure(ctx, s, step, &sample)
			sample.Seconds = time.Since(start).Seconds()
			var cant cantMeasure
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case errors.As(err, &cant):
				skipped[step.Workload] = true
				done.Note = fmt.Sprintf("%s was not measured: %v", step.Workload, err)
			case err != nil:
				return fmt.Errorf("%s: %w", step.Case, err)
			default:
				done.Sample = &sample
			}
		}
		b.report(done)
	}
	return nil
}

// cantMeasure is the error of a workload that needs what isn't there.
type cantMeasure struct{ error }

// measure takes one sample.
func (b *bench) measure(ctx context.Context, s *server, step step, sample *Sample) error {
	if err := b.compareBody(ctx, s, step.Case); err != nil {
		return err
	}
	switch step.Workload {
	case connect:
		return b.measureConnect(ctx, s, step, sample)
	case transfer, proxy:
		return b.measureTransfer(ctx, s, step, sample)
	case sequence:
		return b.measureSequence(ctx, step, sample)
	case slow:
		return b.measureSlow(ctx, s, step, sample)
	case distant:
		return b.measureDistant(ctx, s, step, sample)
	case syscalls:
		return b.measureSyscalls(ctx, s, step, sample)
	case idle:
		return b.measureIdle(ctx, s, step, sample)
	case network, keepAlive, afterIdle:
		return b.measureNetwork(ctx, s, step, sample)
	case diskLoads:
		return b.measureDisk(ctx, s, step, sample)
	case memory, proxyMemory:
		return b.measureMemory(ctx, s, step, sample)
	}
	return fmt.Errorf("%s: no such workload", step.Workload)
}

// compareBody compares what a server sends with the file, once.
func (b *bench) compareBody(ctx context.Context, s *server, c Case) error {
	if c.floor() {
		return nil // nobody decrypts what it sends
	}
	url := s.name + c.Protocol + s.url(c)
	if b.verified[url] {
		return nil
	}
	if err := verify(ctx, s, b.site, c, b.roots); err != nil {
		return err
	}
	b.verified[url] = true
	return nil
}

// sleep returns early if ctx ends, with its error.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
