package main

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"

	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// publish writes the documents of counted runs, merged into one, into a folder docs: its
// page benchmark.md, and the folder benchmark with results, report and pictures.
func publish(dirs []string, docs string) error {
	r, err := readResults(dirs)
	if err != nil {
		return err
	}
	page, err := r.page()
	if err != nil {
		return err
	}
	var report bytes.Buffer
	if err := r.report(&report); err != nil {
		return err
	}
	dir := filepath.Join(docs, "benchmark")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return errors.Join(
		r.save(dir), replaceFile(filepath.Join(dir, "report.md"), report.Bytes()), r.draw(dir),
		replaceFile(filepath.Join(docs, "benchmark.md"), page),
	)
}

// benchmarkPage is docs/benchmark.md without its figures.
//
//go:embed benchmark.md.tmpl
var benchmarkPage string

// page fills benchmarkPage with the figures of a run.
func (r *Results) page() ([]byte, error) {
	t, err := template.New("benchmark.md").Funcs(template.FuncMap{
		"cells": r.cells, "ratio": r.ratio, "less": r.less, "spread": r.spread,
		"date":    func() string { return r.Started.UTC().Format("2006-01-02") },
		"version": r.version,
	}).Parse(benchmarkPage)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = t.Execute(&b, r)
	return b.Bytes(), err
}

// version returns the version of a program or of a kernel that took part.
func (r *Results) version(name string) (string, error) {
	for _, k := range r.Kernels {
		if k.Name == name {
			return k.Release, nil
		}
	}
	if v, ok := r.Machine.Versions[name]; ok {
		return v, nil
	}
	return "", fmt.Errorf("no version of %s; there are %v", name, slices.Sorted(maps.Keys(r.Machine.Versions)))
}

// parseCase reads a case without a server: kernel, workload, protocol, size, connections
// and, if it is not the first, the cipher.
func (r *Results) parseCase(text string) (c Case, err error) {
	words := strings.Fields(text)
	if len(words) < 5 || len(words) > 6 {
		return c, fmt.Errorf("%q is no case", text)
	}
	c = Case{Kernel: words[0], Workload: words[1], Protocol: words[2], Cipher: r.Parameters.Ciphers[0]}
	if c.Size, err = parseSize(words[3]); err != nil {
		return c, err
	}
	if len(words) == 6 {
		c.Cipher = words[5]
	}
	c.Connections, err = parseCount(words[4])
	return c, err
}

// center returns the median of what was measured of a case.
func (r *Results) center(c Case, unit string) (float64, error) {
	var values []float64
	for _, s := range r.Samples {
		if v, ok := s.Values[unit]; ok && s.Case == c {
			values = append(values, v)
		}
	}
	if len(values) == 0 {
		return 0, fmt.Errorf("%s of %s on %s was not measured", unit, c, c.Kernel)
	}
	return summarize(values).Center, nil
}

// cells returns a cell of a table for each of the servers, whose names have spaces
// between: the median and, but for stock, its ratio to stock.
func (r *Results) cells(what, unit, servers string) (string, error) {
	c, err := r.parseCase(what)
	if err != nil {
		return "", err
	}
	base, err := r.center(c.on(stock), unit)
	if err != nil {
		return "", err
	}
	var cells []string
	for server := range strings.FieldsSeq(servers) {
		v, err := r.center(c.on(server), unit)
		if err != nil {
			return "", err
		}
		cell := quantity(v, unit)
		if server != stock {
			cell += fmt.Sprintf(" ×%.2f", v/base)
		}
		cells = append(cells, cell)
	}
	return strings.Join(cells, " | "), nil
}

// quantity writes a number of a unit as the page has it: of bytes in KiB.
func quantity(v float64, unit string) string {
	english := message.NewPrinter(language.English)
	switch {
	case strings.HasPrefix(unit, "instr/"):
		return english.Sprintf("%.0f", v)
	case strings.HasSuffix(unit, "B/conn"), strings.HasSuffix(unit, "B/req"):
		return fmt.Sprintf("%.1f", v/1024)
	case v < 0.01:
		return fmt.Sprintf("%.1g", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// ratio returns the ratio of a server to another one.
func (r *Results) ratio(what, unit, server, to string) (float64, error) {
	c, err := r.parseCase(what)
	if err != nil {
		return 0, err
	}
	v, err := r.center(c.on(server), unit)
	if err != nil {
		return 0, err
	}
	base, err := r.center(c.on(to), unit)
	return v / base, err
}

// less returns by how many percent ktls is below stock.
func (r *Results) less(what, unit string) (string, error) {
	ratio, err := r.ratio(what, unit, ktls, stock)
	return fmt.Sprintf("%.0f %%", 100*(1-ratio)), err
}

// spread returns by how many percent the samples of a workload's cases are away from
// their median: at most in half of the cases, and in all.
func (r *Results) spread(workload, unit string) (string, error) {
	var spreads []float64
	for _, t := range r.tables() {
		if t.workload != workload || t.unit.name != unit {
			continue
		}
		for c, values := range t.values {
			if center := summarize(values).Center; len(values) > 1 && (c.Server == stock || c.Server == ktls) {
				spreads = append(spreads, math.Max(slices.Max(values)-center, center-slices.Min(values))/center*100)
			}
		}
	}
	if len(spreads) == 0 {
		return "", fmt.Errorf("%s of %s was not measured twice", unit, workload)
	}
	return fmt.Sprintf("%.1f %%, at most %.0f %%", summarize(spreads).Center, slices.Max(spreads)), nil
}
