package main

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// kernels are those on which the tests run, as integration_test/run has them.
var kernels = []string{"6.1", "6.12", "7.2"}

// A row has what was tried, and the result on each kernel where it was.
type row struct {
	cells   []string
	results map[string]string
}

type table []row

// row returns the row with these cells, or nil.
func (t table) row(cells []string) *row {
	for i := range t {
		if slices.Equal(t[i].cells, cells) {
			return &t[i]
		}
	}
	return nil
}

// add adds a result on a kernel. It fails if there is another one already.
func (t *table) add(cells []string, kernel, result string) error {
	known := t.row(cells)
	if known == nil {
		*t = append(*t, row{cells, map[string]string{kernel: result}})
		return nil
	}
	if other, ok := known.results[kernel]; ok && other != result {
		return fmt.Errorf("%s: two results on %s: %s, and %s", strings.Join(cells, " | "), kernel, other, result)
	}
	known.results[kernel] = result
	return nil
}

func (t table) sort() {
	slices.SortFunc(t, func(a, b row) int { return slices.Compare(a.cells, b.cells) })
}

// joined makes one row of those that follow each other and differ in the last cell only.
func (t table) joined() (joined table) {
	for _, r := range t {
		last := len(r.cells) - 1
		if n := len(joined); n > 0 && slices.Equal(joined[n-1].cells[:last], r.cells[:last]) &&
			maps.Equal(joined[n-1].results, r.results) {
			joined[n-1].cells[last] += ", " + r.cells[last]
		} else {
			joined = append(joined, row{slices.Clone(r.cells), r.results})
		}
	}
	return joined
}

func (t table) markdown(columns ...string) string {
	var b strings.Builder
	b.WriteString(line(columns) + strings.Repeat("|---", len(columns)) + "|\n")
	for _, r := range t {
		b.WriteString(line(append(slices.Clone(r.cells), r.result())))
	}
	return b.String()
}

func line(cells []string) string { return "| " + strings.Join(cells, " | ") + " |\n" }

// parseRow returns the cells of a line of a table, unless it is none or that below the
// heads of the columns.
func parseRow(line string) (cells []string, ok bool) {
	line, begins := strings.CutPrefix(line, "| ")
	line, ends := strings.CutSuffix(line, " |")
	return strings.Split(line, " | "), begins && ends
}

// between stands between the results of a cell that has more than one.
const between = "<br>"

// result returns the last cell: the result, if it is the same on all kernels, else each
// behind the kernels that have it.
func (r row) result() string {
	var parts []string
	for i, kernel := range kernels {
		result, ok := r.results[kernel]
		same := func(kernel string) bool { return r.results[kernel] == result }
		if !ok || slices.ContainsFunc(kernels[:i], same) {
			continue // not tried, or with the first that has it
		}
		var having []string
		for _, kernel := range kernels[i:] {
			if same(kernel) {
				having = append(having, kernel)
			}
		}
		if len(having) == len(kernels) {
			return result
		}
		parts = append(parts, strings.Join(having, ", ")+": "+result)
	}
	return strings.Join(parts, between)
}

var ofKernels = regexp.MustCompile(`^(\d+\.\d+(?:, \d+\.\d+)*): (.*)$`)

// parseResult is the reverse of result.
func parseResult(cell string) map[string]string {
	byKernel := map[string]string{}
	for part := range strings.SplitSeq(cell, between) {
		names, result := kernels, part
		if match := ofKernels.FindStringSubmatch(part); match != nil {
			names, result = strings.Split(match[1], ", "), match[2]
		}
		for _, kernel := range names {
			byKernel[kernel] = result
		}
	}
	return byKernel
}
