package telemetry

import (
	"io/fs"
	"maps"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"

	"github.com/caddy-ktls/caddy-ktls/fileserver"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// allMetrics returns every metric of the module, each with a value.
func allMetrics(t testing.TB) []*dto.MetricFamily {
	t.Helper()
	kernel := metrics.kernel
	t.Cleanup(func() { metrics.kernel = kernel })
	metrics.kernel = func() (map[string]uint64, error) { return map[string]uint64{"TlsCurrTxSw": 1}, nil }
	m := newCounters(t)
	m.decided(ktls.Decision{State: ktls.NotNeeded})
	m.sending(fileserver.ReasonNone)
	w, response := insert(t)
	_, _ = w.Write([]byte("a text"))
	m.done(response)

	registry := prometheus.NewPedanticRegistry()
	if err := Register(registry); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	descriptions := make(chan *prometheus.Desc, 100)
	registry.Describe(descriptions)
	if len(descriptions) != len(families) {
		t.Fatalf("%d of %d metrics have a value", len(families), len(descriptions))
	}
	return families
}

// labelsOf returns the labels of each metric.
func labelsOf(families []*dto.MetricFamily) map[string][]string {
	labels := make(map[string][]string)
	for _, family := range families {
		labels[family.GetName()] = nil
		for _, label := range family.GetMetric()[0].GetLabel() {
			labels[family.GetName()] = append(labels[family.GetName()], label.GetName())
		}
	}
	return labels
}

func TestMetricsLint(t *testing.T) {
	problems, err := promlint.NewWithMetricFamilies(allMetrics(t)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

// What the kernel counts is missing where it counts nothing.
func TestKernelCollector(t *testing.T) {
	for _, tt := range []struct {
		name       string
		statistics kernelCollector
		want       map[string]float64
	}{
		{"no file", func() (map[string]uint64, error) { return nil, fs.ErrNotExist }, map[string]float64{}},
		{"file", func() (map[string]uint64, error) {
			return map[string]uint64{"TlsCurrTxSw": 3, "TlsCurrTxDevice": 2, "TlsCurrRxSw": 9}, nil
		}, map[string]float64{"software": 3, "device": 2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			registry := prometheus.NewPedanticRegistry()
			if err := registry.Register(tt.statistics); err != nil {
				t.Fatal(err)
			}
			families, err := registry.Gather()
			if err != nil {
				t.Fatal(err)
			}
			got := make(map[string]float64)
			for _, family := range families {
				for _, metric := range family.GetMetric() {
					got[metric.GetLabel()[0].GetValue()] = metric.GetGauge().GetValue()
				}
			}
			if !maps.Equal(got, tt.want) {
				t.Errorf("got %v", got)
			}
		})
	}
}
