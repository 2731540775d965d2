package main

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/perf/benchfmt"
)

// records returns the samples as results of Go's benchmarks, in the order in
// which reports show them.
func (r *Results) records() []*benchfmt.Result {
	samples := slices.Clone(r.Samples)
	slices.SortStableFunc(samples, func(a, b Sample) int {
		return cmp.Or(compareCases(a.Case, b.Case), cmp.Compare(a.Repetition, b.Repetition))
	})
	records := make([]*benchfmt.Result, len(samples))
	for i, s := range samples {
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
		records[i] = record
	}
	return records
}

// benchName has the configuration as golang.org/x/perf reads it.
func (c Case) benchName() string {
	return fmt.Sprintf("%s/workload=%s/size=%s/conns=%d/cipher=%s/server=%s",
		strings.ToUpper(c.Protocol), c.Workload, formatSize(c.Size), c.Connections, c.Cipher, c.Server)
}

// benchstat returns the samples in the format of Go's benchmarks, which
// golang.org/x/perf/cmd/benchstat compares: try `benchstat -col /server`.
func (r *Results) benchstat() ([]byte, error) {
	var b bytes.Buffer
	w := benchfmt.NewWriter(&b)
	for _, record := range r.records() {
		if err := w.Write(record); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}
