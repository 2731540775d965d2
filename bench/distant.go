package main

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// The network of the workload distant, and the length of its bodies.
const (
	distantDelay = "20ms"
	distantRate  = "1gbit"
	distantSize  = 64 << 20
)

// measureDistant gives the throughput of one connection over a long way. The clock of a
// machine with --icount goes by instructions, and it does not wait for the network.
func (b *bench) measureDistant(ctx context.Context, s *server, step step, sample *Sample) error {
	// Otherwise the kernel's limits for buffers are what is measured.
	for _, name := range []string{"tcp_rmem", "tcp_wmem"} {
		if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte("4096 65536 33554432"), 0); err != nil {
			return cantMeasure{err}
		}
	}
	network := shaping{device: "lo", mtu: 65536, delay: distantDelay, rate: distantRate}
	if err := network.set(ctx); err != nil {
		return cantMeasure{err}
	}
	r, err := (load{step.Case, s.url(step.Case), step.requests, 1}).run(ctx)
	if err := errors.Join(err, network.reset(context.WithoutCancel(ctx))); err != nil {
		return err
	}
	sample.Values["MiB/s"] = float64(r.bytes) / (1 << 20) / r.duration.Seconds()
	if sample.Values["MiB/s"] == 0 {
		return fmt.Errorf("nothing was transferred")
	}
	return nil
}
