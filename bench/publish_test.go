package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What is published is what the program makes of the published results and its template.
func TestPublished(t *testing.T) {
	docs := t.TempDir()
	if err := publish([]string{"../docs/benchmark"}, docs); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"benchmark.md", "benchmark/report.md", "benchmark/results.json"} {
		made, err1 := os.ReadFile(filepath.Join(docs, name))
		published, err2 := os.ReadFile(filepath.Join("../docs", name))
		if err1 != nil || err2 != nil || string(made) != string(published) {
			t.Errorf("docs/%s is not what publish writes (%v, %v): cd bench && go run . publish ../docs/benchmark", name, err1, err2)
		}
	}
}

// README says what the results do.
func TestReadme(t *testing.T) {
	r, err := readResults([]string{"../docs/benchmark"})
	if err != nil {
		t.Fatal(err)
	}
	less := map[string]string{}
	for _, protocol := range allProtocols {
		if less[protocol], err = r.less("6.12 transfer "+protocol+" 1MiB 16", "instr/KiB"); err != nil {
			t.Fatal(err)
		}
	}
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("%s fewer instructions over HTTP/1.1 and %s fewer over HTTP/2", less[http1], less[http2])
	if !strings.Contains(string(readme), want) {
		t.Errorf("README.md does not say %q", want)
	}
}

func TestPageNeedsItsCases(t *testing.T) {
	r := pictured()
	if _, err := r.page(); err == nil {
		t.Error("a page without its figures")
	}
	for _, what := range []string{"6.12 transfer http1 1MiB", "6.12 transfer http1 one 16", "6.12 transfer http1 1MiB none"} {
		if _, err := r.cells(what, "instr/KiB", stock); err == nil {
			t.Errorf("%q is a case", what)
		}
	}
	got, err := r.cells("6.12 transfer http1 1MiB 16", "instr/KiB", "stock ktls")
	if want := "4,000 | 3,600 ×0.90"; err != nil || got != want {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
	if _, err := r.version("6.12"); err == nil {
		t.Error("a version of a kernel that did not run")
	}
}

func TestQuantity(t *testing.T) {
	for _, test := range []struct {
		v          float64
		unit, want string
	}{
		{3766.6, "instr/KiB", "3,767"}, {2617591, "instr/conn", "2,617,591"}, {28365, "heap+stack-B/conn", "27.7"},
		{1.204, "traffic-B/B", "1.20"}, {0.00021, "border-B/B", "0.0002"}, {0, "border-B/B", "0"},
	} {
		if got := quantity(test.v, test.unit); got != test.want {
			t.Errorf("%v %s: %q, want %q", test.v, test.unit, got, test.want)
		}
	}
}
