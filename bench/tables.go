package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/perf/benchmath"
	"golang.org/x/perf/benchproc"
	"golang.org/x/perf/benchunit"
)

// A table has the values of one unit, in the order of the samples.
type table struct {
	key           benchproc.Key // kernel, workload, unit
	rows, columns []benchproc.Key
	cells         map[[2]benchproc.Key][]float64 // by row and column
}

// The fields of a table's row and of its column, as benchproc names them.
const rowFields, columnField = ".name,/size,/conns,/cipher", "/server"

// tables groups the samples by kernel, workload and unit.
func (r *Results) tables() ([]*table, error) {
	var parser benchproc.ProjectionParser
	byTable, _, err1 := parser.ParseWithUnit("kernel,/workload", nil)
	byRow, err2 := parser.Parse(rowFields, nil)
	byColumn, err3 := parser.Parse(columnField, nil)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	tables := map[benchproc.Key]*table{}
	for _, record := range r.records() {
		at := [2]benchproc.Key{byRow.Project(record), byColumn.Project(record)}
		for i, key := range byTable.ProjectValues(record) {
			t := tables[key]
			if t == nil {
				t = &table{key: key, cells: map[[2]benchproc.Key][]float64{}}
				tables[key] = t
			}
			t.rows, t.columns = addKey(t.rows, at[0]), addKey(t.columns, at[1])
			t.cells[at] = append(t.cells[at], record.Values[i].Value)
		}
	}
	return slices.SortedFunc(maps.Values(tables), func(a, b *table) int {
		if a.key.Less(b.key) {
			return -1
		}
		return 1
	}), nil
}

// addKey adds a key, unless it is there.
func addKey(keys []benchproc.Key, key benchproc.Key) []benchproc.Key {
	if !slices.Contains(keys, key) {
		keys = append(keys, key)
		benchproc.SortKeys(keys)
	}
	return keys
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

func writeTables(b *strings.Builder, r *Results) error {
	tables, err := r.tables()
	kernel, protocols := "", strings.NewReplacer("HTTP1", "HTTP/1.1", "HTTP2", "HTTP/2")
	for _, t := range tables {
		fields := t.key.Projection().Fields()
		if k := t.key.Get(fields[0]); k != kernel {
			kernel = k
			fmt.Fprintf(b, "\n## Kernel %s\n", kernel)
		}
		unit := t.key.Get(fields[2])
		fmt.Fprintf(b, "\n### %s: %s\n\n| Protocol | Body | Connections | Cipher |", t.key.Get(fields[1]), unitTitle(unit))
		var base benchproc.Key
		for _, column := range t.columns {
			fmt.Fprintf(b, " %s |", column.StringValues())
			if column.StringValues() == stock {
				base = column
			}
		}
		fmt.Fprintf(b, "\n|---|--:|--:|---|%s\n", strings.Repeat("--:|", len(t.columns)))
		for _, row := range t.rows {
			b.WriteByte('|')
			for _, field := range row.Projection().Fields() {
				fmt.Fprintf(b, " %s |", protocols.Replace(row.Get(field)))
			}
			for _, column := range t.columns {
				values := t.cells[[2]benchproc.Key{row, column}]
				fmt.Fprintf(b, " %s", formatCell(values, unit))
				if stocks := t.cells[[2]benchproc.Key{row, base}]; len(values) > 0 && len(stocks) > 0 && column != base {
					fmt.Fprintf(b, " ×%.2f", summarize(values).Center/summarize(stocks).Center)
				}
				b.WriteString(" |")
			}
			b.WriteByte('\n')
		}
	}
	return err
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

func unitTitle(name string) string {
	for _, u := range units {
		if u.name == name {
			return u.title
		}
	}
	return name
}
