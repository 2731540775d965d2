package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"time"
)

// The network of the workload slow: the clients begin at more than they get in the end.
// So the send buffers have grown, as they have when a client reads at full speed first
// and then as fast as it plays.
const (
	slowDelay  = "20ms" // of each packet, so a round trip takes twice that
	slowBegin  = "100mbit"
	slowPrefix = 1 << 20 // bytes that each client reads before
	slowSize   = 100 << 20
	slowSettle = 8 * time.Second // before and while it is measured
)

// measureSlow gives what many slow downloads cost at the same time.
func (b *bench) measureSlow(ctx context.Context, s *server, step step, sample *Sample) error {
	w, err := newWitness(ctx, s)
	if err != nil {
		return err
	}
	before, err := s.memory(ctx)
	if err != nil {
		return err
	}
	network := shaping{device: "lo", mtu: 65536, delay: slowDelay, each: slowBegin}
	if err := network.set(ctx); err != nil {
		return cantMeasure{err}
	}
	downloads := newDownloads(ctx, s, step.Case, b.roots)
	err = slowDownloads(ctx, s, sample, network, downloads, b.job.Parameters.SlowBytes, before)
	downloads.stop()
	if err := errors.Join(err, network.reset(context.WithoutCancel(ctx))); err != nil {
		return err
	}
	return w.check(ctx, step.Case, step.Connections, downloads.bytes.Load())
}

// slowDownloads measures downloads under way. before is the server's memory without them.
func slowDownloads(ctx context.Context, s *server, sample *Sample, network shaping, downloads *downloads, rate int64, before map[string]float64) error {
	if err := downloads.await(slowPrefix); err != nil {
		return err
	}
	network.each = fmt.Sprintf("%dbps", rate) // bytes, as tc(8) has it
	if err := network.set(ctx); err != nil {
		return err
	}
	if err := sleep(ctx, slowSettle); err != nil {
		return err
	}
	begin, bytes := time.Now(), downloads.bytes.Load()
	instructions, err := cpuTime(s.pids)
	if err != nil {
		return err
	}
	if err := sleep(ctx, slowSettle); err != nil {
		return err
	}
	used, err := cpuTime(s.pids)
	if err != nil {
		return err
	}
	read, n := float64(downloads.bytes.Load()-bytes), float64(downloads.n)
	if got := read / time.Since(begin).Seconds() / n; got < float64(rate)/2 || got > float64(rate)*2 {
		return fmt.Errorf("each client reads %.0f bytes a second, want %d", got, rate)
	}
	sockets, err := socketMemory(ctx, s.port)
	if err != nil {
		return err
	}
	after, err := s.memory(ctx)
	if err != nil {
		return err
	}
	sample.Values["instr/KiB"] = (used - instructions) / read * 1024
	sample.Values["socket-B/conn"] = sockets / n
	for name := range after {
		sample.Values[name] = (after[name] - before[name]) / n
	}
	return nil
}

// socketMemory returns the memory of the sockets that were accepted on a port, in bytes:
// what is queued to be sent and read, and what is reserved for more.
func socketMemory(ctx context.Context, port int) (sum float64, err error) {
	output, err := exec.CommandContext(ctx, "ss", "-tnmOH", "state", "established", fmt.Sprintf("( sport = :%d )", port)).CombinedOutput()
	if err != nil {
		return 0, cantMeasure{fmt.Errorf("ss: %w: %s", err, output)}
	}
	return parseSocketMemory(string(output))
}

// skmem is how ss writes the socket's memory, see ss(8).
var skmem = regexp.MustCompile(`skmem:\(r(\d+),rb\d+,t\d+,tb\d+,f(\d+),w(\d+),`)

func parseSocketMemory(output string) (sum float64, err error) {
	for _, numbers := range skmem.FindAllStringSubmatch(output, -1) {
		for _, number := range numbers[1:] {
			n, err := strconv.ParseFloat(number, 64)
			if err != nil {
				return 0, err
			}
			sum += n
		}
	}
	if sum == 0 {
		return 0, fmt.Errorf("ss has said nothing about memory: %q", output)
	}
	return sum, nil
}
