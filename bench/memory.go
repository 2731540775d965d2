package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// The workloads memory and proxy-memory: how many connections, each with one body.
const memoryConnections = 16

// memorySteps returns the samples of the workloads memory and proxy-memory. They
// are on the main kernel, and come from one machine in which all servers run.
func (p *Parameters) memorySteps() []step {
	var steps []step
	for _, workload := range []string{memory, proxyMemory} {
		if !slices.Contains(p.Workloads, workload) {
			continue
		}
		for _, protocol := range p.Protocols {
			for repetition := range p.MemoryRepetitions {
				c := Case{p.mainKernel(), workload, protocol, p.MemoryBytes, memoryConnections, allCiphers[0], ""}
				for _, c.Server = range p.serversOf(c) {
					s := step{c, repetition + 1, memoryConnections, 0.3 * float64(c.Size) * memoryConnections / (1 << 20)}
					if c.proxied() {
						s.estimate *= 1.5
					}
					steps = append(steps, s)
				}
			}
		}
	}
	return steps
}

// buildPlugin builds QEMU's plugin with the model of a cache, and returns its path.
func (h *host) buildPlugin(ctx context.Context) (string, error) {
	plugin := filepath.Join(h.work, "memtraffic.so")
	source := filepath.Join(h.root, "bench", "memtraffic", "memtraffic.c")
	if err := h.command(ctx, h.root, "gcc", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-o", plugin, source, "-lpthread"); err != nil {
		return "", fmt.Errorf("memory traffic needs a plugin for QEMU, and that gcc; -workloads can leave it out: %w", err)
	}
	return plugin, nil
}

// countMemory has clients on this machine load from the servers in a virtual
// machine, all of whose memory accesses go through the model of a cache.
func (r *run) countMemory(ctx context.Context, h *host, plugin string, steps []step) error {
	c := &cacheModel{cmd: filepath.Join(h.work, "plugin.cmd"), out: filepath.Join(h.work, "plugin.out")}
	// The clock goes by instructions: by the host's, what the kernel and Go do
	// within a time slice would be hundreds of times less than on a real machine.
	options := []string{"--icount", "--qemu-arg", "-plugin", "--qemu-arg", fmt.Sprintf("%s,cmd=%s,out=%s,kib=2048", plugin, c.cmd, c.out)}
	o := outside{run: r, cache: c, ports: map[string]int{}, proxies: map[string]int{}, site: site{h.work}}
	p := r.results.Parameters
	if err := o.site.add(p.MemoryBytes); err != nil {
		return err
	}
	free, err := freePorts(2*len(allServers) + 2)
	if err != nil {
		return err
	}
	forward := func(guest int) (port int) {
		port, free = free[0], free[1:]
		options = append(options, "--hostfwd", fmt.Sprintf("%d:%d", port, guest))
		return port
	}
	for i, name := range allServers {
		o.ports[name], o.proxies[name] = forward(guestPort+i), forward(proxyPort+i)
	}
	o.h2c, o.control = forward(h2cPort), forward(controlPort)
	limit := time.Duration(10*total(steps)+600) * time.Second
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	asked, failed := false, error(nil)
	err = h.boot(ctx, job{p, p.mainKernel(), true}, limit, options, func(e event) {
		r.learn(p.mainKernel(), e)
		if e.Ready {
			asked = true
			if failed = o.measure(ctx, steps); failed != nil {
				cancel()
			}
		}
	})
	switch {
	case failed != nil:
		return failed
	case err == nil && !asked:
		return errors.New("the virtual machine has ended before it could be measured")
	}
	return err
}

// A cacheModel is QEMU's plugin, as its clients see it.
type cacheModel struct{ cmd, out string }

// A snapshot has what the plugin has counted so far.
type snapshot struct{ fills, writeBacks, instructions, accesses float64 }

// tell gives the plugin a command and returns the line that it answers.
func (c *cacheModel) tell(ctx context.Context, word string) (s snapshot, err error) {
	before, _ := os.ReadFile(c.out)
	if err := replaceFile(c.cmd, []byte(word+"\n")); err != nil {
		return s, err
	}
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		now, _ := os.ReadFile(c.out)
		if line := string(now[len(before):]); strings.Contains(line, "\n") {
			return parseSnapshot(line)
		}
		select {
		case <-ctx.Done():
			return s, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	return s, fmt.Errorf("the plugin does not answer to %q", word)
}

func parseSnapshot(line string) (s snapshot, err error) {
	if _, err := fmt.Sscanf(line, "%g %g %g %g", &s.fills, &s.writeBacks, &s.instructions, &s.accesses); err != nil {
		return s, fmt.Errorf("the plugin has answered %q", line)
	}
	return s, nil
}

// outside measures servers in a machine from outside.
type outside struct {
	run     *run
	cache   *cacheModel
	ports   map[string]int // by server
	proxies map[string]int // by server, of proxied bodies
	h2c     int            // port of HTTP/2 without TLS
	control int            // port of the guest's control
	site    site
	roots   *x509.CertPool
}

func (o *outside) ask(ctx context.Context, path string) (string, error) {
	return get(ctx, fmt.Sprintf("http://127.0.0.1:%d/%s", o.control, path))
}

// witness reads the counters that are in the guest.
func (o *outside) witness(ctx context.Context, name string) (w witness, err error) {
	text, err := o.ask(ctx, "witness/"+name)
	if err != nil {
		return w, err
	}
	err = json.Unmarshal([]byte(text), &w)
	return w, err
}

func (o *outside) measure(ctx context.Context, steps []step) error {
	certificate, err := o.ask(ctx, "cert")
	if err != nil {
		return err
	}
	o.roots = x509.NewCertPool()
	o.roots.AppendCertsFromPEM([]byte(certificate))
	for i, step := range steps {
		s := &server{name: step.Server, port: o.ports[step.Server], proxy: o.proxies[step.Server], h2c: o.h2c}
		if step.repetition == 1 {
			if err := verify(ctx, s, o.site, step.Case, o.roots); err != nil {
				return err
			}
			// The first run is not counted: its memory is new.
			if _, err := o.traffic(ctx, s, step.Case); err != nil {
				return fmt.Errorf("%s: %w", step.Case, err)
			}
		}
		values, err := o.traffic(ctx, s, step.Case)
		if err != nil {
			return fmt.Errorf("%s: %w", step.Case, err)
		}
		o.run.take(steps, event{Step: i + 1, Sample: &Sample{Case: step.Case, Repetition: step.repetition, Values: values}})
	}
	_, _ = o.ask(ctx, "quit")
	return nil
}

// traffic returns what one load costs.
func (o *outside) traffic(ctx context.Context, s *server, c Case) (map[string]float64, error) {
	before, err := o.witness(ctx, s.name)
	if err != nil {
		return nil, err
	}
	first, err := o.cache.tell(ctx, "on")
	if err != nil {
		return nil, err
	}
	l := load{url: s.url(c), protocol: c.Protocol, cipher: c.tlsCipher(), requests: c.Connections, connections: c.Connections, size: c.Size}
	r, err := l.run(ctx)
	if err != nil {
		return nil, err
	}
	last, err := o.cache.tell(ctx, "off")
	if err != nil {
		return nil, err
	}
	after, err := o.witness(ctx, s.name)
	if err != nil {
		return nil, err
	}
	if err := before.compare(after, c, c.Connections, r.bytes); err != nil {
		return nil, err
	}
	const line = 64
	bytes := float64(r.bytes)
	fills, writeBacks := (last.fills-first.fills)*line/bytes, (last.writeBacks-first.writeBacks)*line/bytes
	return map[string]float64{
		"traffic-B/B": fills + writeBacks, "fills-B/B": fills, "writebacks-B/B": writeBacks,
		"guest-instr/KiB": (last.instructions - first.instructions) / bytes * 1024,
	}, nil
}
