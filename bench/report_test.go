package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs from:\n%s", file, got)
	}
}

// What is made of testdata/results.json. `go test . -update` writes it anew.
func TestReport(t *testing.T) {
	r, err := readResults([]string{"testdata"})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := r.write(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"report.md", "benchstat.txt"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name, string(text))
	}
}

func TestMerge(t *testing.T) {
	a := &Results{Mode: "native", Kernels: []KernelRun{{"7.2", "7.2.1"}}, Samples: []Sample{{Case: Case{Kernel: "7.2"}}}}
	b := &Results{Mode: "native", Kernels: []KernelRun{{"6.12", "6.12.9"}, {"7.2", "7.2.1"}},
		Samples: []Sample{{Case: Case{Kernel: "6.12"}}, {Case: Case{Kernel: "7.2"}}}, Notes: []string{"a note"}}
	if err := a.merge(b); err != nil {
		t.Fatal(err)
	}
	if text, _ := json.Marshal(a.Kernels); len(a.Samples) != 2 || a.Kernels[0].Name != "6.12" || len(a.Notes) != 1 {
		t.Errorf("%s, %d samples", text, len(a.Samples))
	}
	if err := a.merge(&Results{Mode: "counted"}); err == nil {
		t.Error("different modes are merged")
	}
}

func TestSummarize(t *testing.T) {
	for _, test := range []struct {
		values              []float64
		median, least, most float64
	}{
		{nil, 0, 0, 0},
		{[]float64{3}, 3, 3, 3},
		{[]float64{4, 1}, 2.5, 1, 4},
		{[]float64{9, 1, 5}, 5, 1, 9},
		// Of ten, the second and the ninth bound the median with 95 %.
		{[]float64{10, 2, 3, 4, 5, 6, 7, 8, 9, 1}, 5.5, 2, 9},
	} {
		if s := summarize(test.values); s.Center != test.median || s.Lo != test.least || s.Hi != test.most {
			t.Errorf("%v: %+v, want %v from %v to %v", test.values, s, test.median, test.least, test.most)
		}
	}
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(100 - i)
	}
	if p50, p99 := percentile(hundred, 0.5), percentile(hundred, 0.99); p50 != 50 || p99 != 99 {
		t.Error(p50, p99)
	}
}

func TestCheck(t *testing.T) {
	var samples []Sample
	for _, b := range bounds {
		for _, server := range []string{stock, b.server} {
			value := 1.0
			if b.ratio && server != stock {
				value = b.max * 0.99
			} else if !b.ratio {
				value = b.max * 0.99
			}
			samples = append(samples, Sample{Case: Case{Workload: b.workload, Protocol: b.protocol, Size: b.size, Server: server},
				Values: map[string]float64{b.unit: value}})
		}
	}
	var out strings.Builder
	if err := check(&out, &Results{Samples: samples}); err != nil || !strings.Contains(out.String(), fmt.Sprintf("%d passed, 0 failed\n", len(bounds))) {
		t.Errorf("%v\n%s", err, out.String())
	}
	samples[1].Values[bounds[0].unit] = bounds[0].max * 1.01
	out.Reset()
	if err := check(&out, &Results{Samples: samples}); err == nil || !strings.Contains(out.String(), fmt.Sprintf("%d passed, 1 failed\n", len(bounds)-1)) {
		t.Errorf("%v\n%s", err, out.String())
	}
	if err := check(&out, &Results{}); err == nil {
		t.Error("nothing measured is no success")
	}
}
