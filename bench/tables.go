package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/perf/benchmath"
	"golang.org/x/perf/benchunit"
)

// A table has what was measured in one unit. Its rows are cases without servers.
type table struct {
	kernel, workload string
	unit             unit
	rows             []Case
	servers          []string
	values           map[Case][]float64
}

// tables returns the tables of a report, in their order.
func (r *Results) tables() (tables []*table) {
	for _, s := range r.sorted() {
		for _, u := range units {
			v, ok := s.Values[u.name]
			if !ok {
				continue
			}
			i := slices.IndexFunc(tables, func(t *table) bool {
				return t.kernel == s.Kernel && t.workload == s.Workload && t.unit == u
			})
			if i < 0 {
				i = len(tables)
				tables = append(tables, &table{s.Kernel, s.Workload, u, nil, nil, map[Case][]float64{}})
			}
			t := tables[i]
			t.rows, t.servers = addOnce(t.rows, s.on("")), addOnce(t.servers, s.Server)
			t.values[s.Case] = append(t.values[s.Case], v)
		}
	}
	return tables
}

func addOnce[T comparable](list []T, v T) []T {
	if slices.Contains(list, v) {
		return list
	}
	return append(list, v)
}

// summarize gives the median, and the interval that has it with a confidence of
// 95 %. With fewer than six values there is none: then it is from the least to the
// most of them. It returns the zero summary for no values.
func summarize(values []float64) benchmath.Summary {
	if len(values) == 0 {
		return benchmath.Summary{}
	}
	sample := benchmath.NewSample(slices.Clone(values), &benchmath.DefaultThresholds)
	s := benchmath.AssumeNothing.Summary(sample, 0.95)
	s.Lo, s.Hi = max(s.Lo, sample.Values[0]), min(s.Hi, sample.Values[len(values)-1])
	return s
}

func (r *Results) writeTables(b *bytes.Buffer) {
	kernel := ""
	for _, t := range r.tables() {
		if t.kernel != kernel {
			kernel = t.kernel
			fmt.Fprintf(b, "\n## Kernel %s\n", kernel)
		}
		fmt.Fprintf(b, "\n### %s: %s\n\n| Protocol | Body | Connections | Cipher | %s |\n|---|--:|--:|---|%s\n", t.workload, t.unit.title,
			strings.Join(t.servers, " | "), strings.Repeat("--:|", len(t.servers)))
		for _, row := range t.rows {
			how := protocolTitles[row.Protocol]
			if row.Network != "" {
				how += ", " + row.Network
			}
			fmt.Fprintf(b, "| %s | %s | %d | %s |", how, formatSize(row.Size), row.Connections, row.Cipher)
			base := t.values[row.on(stock)]
			for _, server := range t.servers {
				values := t.values[row.on(server)]
				fmt.Fprintf(b, " %s", formatCell(values, t.unit.name))
				if len(values) > 0 && len(base) > 0 && server != stock {
					fmt.Fprintf(b, " ×%.2f", summarize(values).Center/summarize(base).Center)
				}
				b.WriteString(" |")
			}
			b.WriteByte('\n')
		}
	}
}

// formatCell returns the median, and the spread if there are several values.
func formatCell(values []float64, unit string) string {
	if len(values) == 0 {
		return ""
	}
	s := summarize(values)
	scale := benchunit.CommonScale([]float64{s.Center, s.Lo, s.Hi}, benchunit.ClassOf(unit))
	if len(values) == 1 {
		return scale.Format(s.Center)
	}
	return fmt.Sprintf("%s (%s–%s)", scale.Format(s.Center), scale.Format(s.Lo), scale.Format(s.Hi))
}
