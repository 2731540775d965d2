package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A cacheModel is QEMU's plugin, as its clients see it: the files of its commands
// and of its answers.
type cacheModel struct{ cmd, out string }

// buildPlugin builds the plugin, and returns its path.
func (h *host) buildPlugin(ctx context.Context) (string, error) {
	plugin := filepath.Join(h.work, "memtraffic.so")
	source := filepath.Join(h.root, "bench", "memtraffic", "memtraffic.c")
	if err := h.command(ctx, h.root, "gcc", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-o", plugin, source, "-lpthread"); err != nil {
		return "", fmt.Errorf("memory traffic needs a plugin for QEMU, and that gcc; -workloads can leave it out: %w", err)
	}
	return plugin, nil
}

// measureOutside has clients on this machine load from servers in a virtual
// machine, all of whose memory accesses go through the model of a cache.
func (r *run) measureOutside(ctx context.Context, h *host, j job) error {
	plugin, err := h.buildPlugin(ctx)
	if err != nil {
		return err
	}
	b, err := newBench(j, h.work, j.sizes(), func(e event) { r.take(j, e) })
	if err != nil {
		return err
	}
	b.cache = &cacheModel{filepath.Join(h.work, "plugin.cmd"), filepath.Join(h.work, "plugin.out")}
	// The clock goes by instructions: by the host's, what the kernel and Go do
	// within a time slice would be hundreds of times less than on a real machine.
	options := []string{"--icount", "--qemu-arg", "-plugin", "--qemu-arg", fmt.Sprintf("%s,cmd=%s,out=%s,kib=2048", plugin, b.cache.cmd, b.cache.out)}
	free, err := freePorts(3*len(allServers) + 1)
	if err != nil {
		return err
	}
	forward := func(guest int) (port int) {
		port, free = free[0], free[1:]
		options = append(options, "--hostfwd", fmt.Sprintf("%d:%d", port, guest))
		return port
	}
	control := forward(controlPort)
	for _, name := range allServers {
		ports := guestPorts(name)
		b.servers[name] = &server{name: name, port: forward(ports[0]), h2c: forward(ports[1]), proxy: forward(ports[2]), control: control}
	}
	asked := false
	err = h.boot(ctx, j, options, func(ctx context.Context, e event) error {
		if r.take(j, e); !e.Ready {
			return nil
		}
		asked = true
		certificate, err := getText(ctx, fmt.Sprintf("http://127.0.0.1:%d/cert", control))
		if err != nil {
			return err
		}
		b.roots = x509.NewCertPool()
		b.roots.AppendCertsFromPEM([]byte(certificate))
		if err := b.run(ctx); err != nil {
			return err
		}
		_, _ = getText(ctx, fmt.Sprintf("http://127.0.0.1:%d/quit", control)) // it may end before it answers
		return nil
	})
	if err == nil && !asked {
		return errors.New("the virtual machine has ended before it could be measured")
	}
	return err
}

// measureMemory gives what one load costs the whole machine.
func (b *bench) measureMemory(ctx context.Context, s *server, step step, sample *Sample) error {
	var first, last snapshot
	begin := func() (err error) { first, err = b.cache.tell(ctx, "on"); return err }
	end := func() (err error) { last, err = b.cache.tell(ctx, "off"); return err }
	if step.repetition == 1 {
		// The first load is not counted: its memory is new.
		if _, err := b.load(ctx, s, step.Case, step.requests, begin, end); err != nil {
			return err
		}
	}
	r, err := b.load(ctx, s, step.Case, step.requests, begin, end)
	if err != nil {
		return err
	}
	const line = 64
	bytes := float64(r.bytes)
	fills, writeBacks := (last.fills-first.fills)*line/bytes, (last.writeBacks-first.writeBacks)*line/bytes
	sample.Values = map[string]float64{
		"traffic-B/B": fills + writeBacks, "fills-B/B": fills, "writebacks-B/B": writeBacks,
		"traffic-spared-B/B": fills + writeBacks - (last.overwritten-first.overwritten)*line/bytes,
	}
	return nil
}

// A snapshot has what the plugin has counted so far.
type snapshot struct{ fills, overwritten, writeBacks float64 }

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
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return s, err
		}
	}
	return s, fmt.Errorf("the plugin does not answer to %q", word)
}

func parseSnapshot(line string) (s snapshot, err error) {
	if _, err := fmt.Sscanf(line, "%g %g %g", &s.fills, &s.overwritten, &s.writeBacks); err != nil {
		return s, fmt.Errorf("the plugin has answered %q", line)
	}
	return s, nil
}
