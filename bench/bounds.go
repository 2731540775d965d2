package main

import (
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
)

// A bound is what a value may be at most.
type bound struct {
	name     string
	server   string
	workload string
	protocol string
	size     int64
	unit     string
	ratio    bool // to stock Caddy's in the same run
	max      float64
}

// bounds are above what was measured, which stands behind each, by more than
// the noise: from one boot to the next, instructions change by up to some percent, and
// one garbage collection more or less changes the memory traffic by ten and more.
var bounds = []bound{
	{"HTTP/1.1, 4 MiB bodies", ktls, transfer, http1, 4 << 20, "instr/KiB", true, 1.05},                      // 0.92, 0.93
	{"HTTP/2, 4 MiB bodies", ktls, transfer, http2, 4 << 20, "instr/KiB", true, 0.70},                        // 0.49
	{"HTTP/2, 1 MiB bodies", ktls, transfer, http2, 1 << 20, "instr/KiB", true, 0.70},                        // 0.46
	{"HTTP/2, 4 MiB bodies by reverse_proxy", ktls, proxy, http2, 4 << 20, "instr/KiB", true, 0.85},          // 0.62
	{"HTTP/2, system calls", ktls, syscalls, http2, 4 << 20, "syscalls/MiB", false, 160},                     // 140
	{"HTTP/1.1, 1 KiB, connection never offloaded", ktls, transfer, http1, 1 << 10, "instr/req", true, 1.12}, // 1.03 to 1.08
	{"HTTP/2, 1 KiB, connection never offloaded", ktls, transfer, http2, 1 << 10, "instr/req", true, 1.10},   // 0.98 to 1.00
	{"HTTP/1.1, new connection with 1 KiB", ktls, connect, http1, 1 << 10, "instr/conn", true, 1.08},         // 0.99, 1.00
	{"HTTP/2, new connection with 1 KiB", ktls, connect, http2, 1 << 10, "instr/conn", true, 1.08},           // 0.99
	{"HTTP/1.1, bytes across the border", ktls, syscalls, http1, 4 << 20, "border-B/B", false, 0.01},         // 0.0002
	{"HTTP/2, bytes across the border", ktls, syscalls, http2, 4 << 20, "border-B/B", false, 0.01},           // 0.0009
	{"HTTP/1.1, memory traffic", ktls, memory, http1, 0, "traffic-B/B", true, 1.10},                          // 0.57 to 0.77: 1.0 B/B
	{"HTTP/2, memory traffic", ktls, memory, http2, 0, "traffic-B/B", true, 0.85},                            // 0.26 to 0.46: 1.4 B/B
}

// check compares results with the bounds, and fails if one is exceeded or has
// nothing to compare.
func check(w io.Writer, r *Results) error {
	passed, failed := 0, 0
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\n\tmeasured\tat most\tof\t")
	for _, b := range bounds {
		value, ok := b.value(r)
		of := b.unit
		if b.ratio {
			of += ", to stock Caddy"
		}
		verdict := "ok"
		if !ok {
			verdict = "FAILED: not measured"
		} else if value > b.max {
			verdict = "FAILED"
		}
		if verdict == "ok" {
			passed++
		} else {
			failed++
		}
		fmt.Fprintf(table, "%s\t%.4f\t%.4f\t%s\t%s\n", b.name, value, b.max, of, verdict)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "%d passed, %d failed\n", passed, failed)
	if failed > 0 {
		return errors.New("bounds are exceeded")
	}
	return nil
}

// value is the median of the bound's server, or its ratio to that of stock Caddy.
func (b bound) value(r *Results) (float64, bool) {
	median := func(server string) float64 {
		var values []float64
		for _, s := range r.Samples {
			if s.Workload != b.workload || s.Protocol != b.protocol || s.Server != server || b.size != 0 && s.Size != b.size {
				continue
			}
			if v, ok := s.Values[b.unit]; ok {
				values = append(values, v)
			}
		}
		return summarize(values).Center
	}
	value := median(b.server)
	if b.ratio {
		base := median(stock)
		if base == 0 {
			return 0, false
		}
		value /= base
	}
	return value, value != 0
}
