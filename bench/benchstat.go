package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// benchstat returns the samples in the format of Go's benchmarks, which
// golang.org/x/perf/cmd/benchstat compares: try `benchstat -col /server`.
func benchstat(r *Results) string {
	var b strings.Builder
	fmt.Fprintf(&b, "goos: linux\ngoarch: amd64\npkg: github.com/caddy-ktls/caddy-ktls/bench\ncpu: %s\nmode: %s\n",
		r.Machine.CPU, r.Mode)
	samples := slices.Clone(r.Samples)
	slices.SortStableFunc(samples, func(a, b Sample) int {
		return cmp.Or(compareCases(a.Case, b.Case), cmp.Compare(a.Repetition, b.Repetition))
	})
	kernel := ""
	for _, s := range samples {
		if s.Kernel != kernel {
			kernel = s.Kernel
			fmt.Fprintf(&b, "kernel: %s\n", kernel)
		}
		fmt.Fprintf(&b, "Benchmark%s/%s 1", strings.ToUpper(s.Protocol[:4])+s.Protocol[4:], s.benchName())
		for _, unit := range slices.Sorted(maps.Keys(s.Values)) {
			fmt.Fprintf(&b, " %s %s", strconv.FormatFloat(s.Values[unit], 'g', 8, 64), unit)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// benchName has the configuration in benchstat's form.
func (c Case) benchName() string {
	cipher := c.Cipher
	if cipher == "" {
		cipher = "none"
	}
	return fmt.Sprintf("workload=%s/size=%s/conns=%d/cipher=%s/server=%s",
		c.Workload, formatSize(c.Size), c.Connections, cipher, c.Server)
}
