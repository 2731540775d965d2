package main

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/perf/benchfmt"
)

// sorted returns the samples in the order in which reports show them.
func (r *Results) sorted() []Sample {
	return slices.SortedStableFunc(slices.Values(r.Samples), func(a, b Sample) int {
		return cmp.Or(compareCases(a.Case, b.Case), cmp.Compare(a.Repetition, b.Repetition))
	})
}

// benchstat writes the samples in the format of Go's benchmarks, which
// golang.org/x/perf/cmd/benchstat compares: try `benchstat -col /server`.
func (r *Results) benchstat(b *bytes.Buffer) error {
	w := benchfmt.NewWriter(b)
	for _, s := range r.sorted() {
		record := &benchfmt.Result{Name: benchfmt.Name(s.benchName()), Iters: 1}
		for _, c := range [][2]string{{"goos", "linux"}, {"goarch", "amd64"}, {"pkg", "github.com/caddy-ktls/caddy-ktls/bench"},
			{"cpu", r.Machine.CPU}, {"mode", r.Mode}, {"kernel", s.Kernel}} {
			record.Config = append(record.Config, benchfmt.Config{Key: c[0], Value: []byte(c[1]), File: true})
		}
		for _, u := range units {
			if v, ok := s.Values[u.name]; ok {
				record.Values = append(record.Values, benchfmt.Value{Value: v, Unit: u.name})
			}
		}
		if err := w.Write(record); err != nil {
			return err
		}
	}
	return nil
}

// benchName has the configuration as golang.org/x/perf reads it.
func (c Case) benchName() string {
	over := ""
	if c.Network != "" {
		over = "/network=" + c.Network
	}
	return fmt.Sprintf("%s/workload=%s/size=%s/conns=%d/cipher=%s%s/server=%s",
		strings.ToUpper(c.Protocol), c.Workload, formatSize(c.Size), c.Connections, c.Cipher, over, c.Server)
}
