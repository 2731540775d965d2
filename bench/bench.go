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

// A bench measures servers that run beside it, all at once: those that have no
// requests cost nothing.
type bench struct {
	parameters Parameters
	programs   programs
	dir        string
	site       site
	servers    map[string]*server
	roots      *x509.CertPool
	// report is called with each sample, and with notes.
	report func(event)
	// connectCost has what a connection with one request costs, in nanoseconds or
	// instructions.
	connectCost map[Case][]float64
	// verified has what was compared: server, protocol and address.
	verified map[string]bool
	// sequences are the times of the workload sequence, in microseconds.
	sequences map[Case][]float64
	// speed is in requests per second, in native mode.
	speed map[Case]float64
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

// newBench makes the site and starts the servers. Those that can't run here are
// taken out of the parameters, with a note.
func newBench(ctx context.Context, p Parameters, kernel string, programs programs, dir string, report func(event)) (*bench, error) {
	b := &bench{
		parameters: p, programs: programs, dir: dir, site: site{filepath.Join(dir, "site")}, report: report,
		servers: map[string]*server{}, connectCost: map[Case][]float64{}, verified: map[string]bool{}, sequences: map[Case][]float64{}, speed: map[Case]float64{},
	}
	if err := os.MkdirAll(b.site.dir, 0o755); err != nil {
		return nil, err
	}
	for _, c := range p.cells(kernel) {
		if err := b.site.add(c.Size); err != nil {
			return nil, err
		}
	}
	var err error
	if b.roots, err = writeCertificate(dir); err != nil {
		return nil, err
	}
	if programs.nginx == "" && (slices.Contains(p.Servers, nginx) || slices.Contains(p.Servers, nginxKTLS)) {
		report(event{Note: "nginx is not installed, so it was not measured"})
	}
	for _, name := range allServers {
		if !p.starts(name) {
			continue
		}
		s := &server{name: name, host: "127.0.0.1", dir: filepath.Join(dir, name)}
		if !s.caddy() && programs.nginx == "" {
			continue
		}
		if err := s.choosePorts(); err != nil {
			return nil, err
		}
		if p.proxies() && name != plain {
			s.backend = b.servers[plain].port
		}
		if err := s.start(ctx, programs, b.site, dir); err != nil {
			return nil, err
		}
		b.servers[name] = s
	}
	return b, b.warmUp(ctx)
}

// warmUp has every server make the first connections, which cost more, and
// looks at what they cost without requests.
func (b *bench) warmUp(ctx context.Context) error {
	if err := b.site.add(switchSize); err != nil {
		return err
	}
	for _, s := range b.servers {
		for _, protocol := range b.parameters.Protocols {
			l := load{url: s.url(Case{Protocol: protocol, Size: switchSize}), protocol: protocol, requests: 64, connections: 16, size: switchSize}
			if s.name != plain {
				l.cipher = allCiphers[0]
			}
			if _, err := l.run(ctx); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	const pause = 2 * time.Second
	before := map[string]float64{}
	for name, s := range b.servers {
		before[name], _ = cpuTime(s.pids)
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(pause):
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

// run takes all samples of a kernel.
func (b *bench) run(ctx context.Context, kernel string) error {
	skipped := map[string]bool{}
	for i, step := range b.parameters.steps(kernel) {
		done := event{Step: i + 1}
		if s := b.servers[step.Server]; s != nil && !skipped[step.Workload] {
			start := time.Now()
			sample, err := b.measure(ctx, s, step)
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
func (b *bench) measure(ctx context.Context, s *server, step step) (Sample, error) {
	sample := Sample{Case: step.Case, Repetition: step.repetition, Values: map[string]float64{}}
	if err := b.compareBody(ctx, s, step.Case); err != nil {
		return sample, err
	}
	switch step.Workload {
	case connect:
		return sample, b.measureConnect(ctx, s, step, &sample)
	case transfer, proxy:
		return sample, b.measureTransfer(ctx, s, step, &sample)
	case sequence:
		return sample, b.measureSequence(ctx, step, &sample)
	case syscalls:
		return sample, b.measureSyscalls(ctx, s, step, &sample)
	case idle:
		return sample, b.measureIdle(ctx, s, step, &sample)
	}
	return sample, fmt.Errorf("%s: no such workload", step.Workload)
}

// compareBody compares what a server sends with the file, once.
func (b *bench) compareBody(ctx context.Context, s *server, c Case) error {
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
