package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
)

// testing compares each row that was found with the document. It may have more rows,
// because not every test runs on each kernel every time.
func (f folder) testing() error {
	found, onAll, err := f.table(results.Faults)
	if err != nil {
		return err
	}
	text, tables, err := readPage("testing.md")
	if err != nil {
		return err
	}
	if *complete && !onAll {
		return errors.New("docs/testing.md: a kernel has left no faults")
	}
	documented, err := parseFaults(tables)
	if err != nil {
		return fmt.Errorf("docs/testing.md: %w", err)
	}
	if !*write {
		if complaints := documented.lacks(found); len(complaints) > 0 {
			return fmt.Errorf("docs/testing.md is not what the tests have found:\n%s", strings.Join(complaints, "\n"))
		}
		return nil
	}
	if !*complete {
		found = documented.with(found)
	}
	return os.WriteFile(filepath.Join(*docs, "testing.md"), []byte(text+faultsMarkdown(found)), 0o644)
}

// lacks returns a complaint for each result that the document does not have.
func (t table) lacks(found table) (complaints []string) {
	for _, r := range found {
		for _, kernel := range kernels {
			result := r.results[kernel]
			if result == "" {
				continue
			}
			says := "no such row"
			if known := t.row(r.cells); known != nil {
				says = known.results[kernel]
				if says == "" {
					says = "no result on this kernel"
				}
			}
			if says != result {
				complaints = append(complaints, fmt.Sprintf("  %s\n    found on %s: %s\n    the document: %s",
					strings.Join(r.cells, " | "), kernel, result, says))
			}
		}
	}
	return complaints
}

// with returns the table with the results that were found added, or in place of its own.
func (t table) with(found table) table {
	for _, r := range found {
		known := t.row(r.cells)
		if known == nil {
			t = append(t, r)
			continue
		}
		for kernel, result := range r.results {
			known.results[kernel] = result
		}
	}
	return t
}

// faultsMarkdown returns the tables, one for each kind of fault, with its heading.
func faultsMarkdown(faults table) string {
	faults.sort()
	var b strings.Builder
	for len(faults) > 0 {
		kind := faults[0].cells[0]
		var rows table
		for len(faults) > 0 && faults[0].cells[0] == kind {
			rows = append(rows, row{faults[0].cells[1:], faults[0].results})
			faults = faults[1:]
		}
		b.WriteString("\n## " + kind + "\n\n" + rows.markdown("Fault", "How", "Result"))
	}
	return b.String()
}

func parseFaults(tables string) (table, error) {
	var faults table
	var kind string
	for line := range strings.Lines(tables) {
		line = strings.TrimSuffix(line, "\n")
		if heading, ok := strings.CutPrefix(line, "## "); ok {
			kind = heading
			continue
		}
		cells, ok := parseRow(line)
		if !ok || cells[0] == "Fault" {
			continue
		}
		if len(cells) != 3 {
			return nil, fmt.Errorf("the row has not 3 cells: %s", line)
		}
		for kernel, result := range parseResult(cells[2]) {
			if err := faults.add([]string{kind, cells[0], cells[1]}, kernel, result); err != nil {
				return nil, err
			}
		}
	}
	return faults, nil
}
