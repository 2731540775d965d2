// Package counters reads the module's metrics for the tests.
package counters

import (
	"io"
	"strings"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Read returns the module's counters by short names: connections:offloaded for
// caddy_ktls_connections_total{outcome="offloaded"}, with all servers, versions
// and ciphers together, and sendfile_bytes for caddy_ktls_sendfile_bytes_total.
// What says how bodies are copied that are not worth more is left out, and so are
// gauges.
func Read(metrics io.Reader) (map[string]int64, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(metrics)
	if err != nil {
		return nil, err
	}
	all := make(map[string]int64)
	for name, family := range families {
		name, ours := strings.CutPrefix(name, "caddy_ktls_")
		if !ours || family.GetMetric()[0].Counter == nil || name == "copied_bytes_total" {
			continue
		}
		name = strings.TrimSuffix(name, "_total")
		for _, m := range family.GetMetric() {
			key := name
			for _, label := range m.GetLabel() {
				if label.GetName() == "outcome" {
					key += ":" + label.GetValue()
				}
			}
			switch key {
			case "responses:small", "responses:not_a_file":
			default:
				all[key] += int64(m.GetCounter().GetValue())
			}
		}
	}
	return all, nil
}
