package check

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
)

// Each alert fires when it should, and only then. The series have a value every minute.
func TestAlerts(t *testing.T) {
	groups, mistakes := rulefmt.ParseFile("../alerts.yaml", false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	if len(mistakes) > 0 {
		t.Fatal(mistakes)
	}
	const calm = `
		caddy_ktls_available{instance="a"} 1x120
		caddy_ktls_connections_total{instance="a",server="s",outcome="offloaded"} 0+100x120
		caddy_ktls_copied_bytes_total{instance="a",server="s",reason="small"} 0+1000x120
		caddy_ktls_copied_bytes_total{instance="a",server="s",reason="not_offloadable"} 0+1000x120
		caddy_ktls_connections_lost_total{instance="a",server="s"} 0+1x120
		caddy_ktls_connections_retired_total{instance="a",server="s"} 0+1x120`
	cases := map[string]string{
		"":                            calm,
		"KernelTLSUnavailable":        `caddy_ktls_available{instance="a"} 0x120`,
		"KernelTLSUntrusted":          `caddy_ktls_connections_total{instance="a",server="s",outcome="kernel_untrusted"} 0x90 1x30`,
		"KernelTLSRefused":            `caddy_ktls_connections_total{instance="a",server="s",outcome="kernel_refused"} 0+1x120`,
		"KernelTLSFilesCopied":        `caddy_ktls_copied_bytes_total{instance="a",server="s",reason="chunked"} 0+1000x120`,
		"KernelTLSConnectionsLost":    `caddy_ktls_connections_total{instance="a",server="s",outcome="offloaded"} 0+100x120` + "\n" + `caddy_ktls_connections_lost_total{instance="a",server="s"} 0+10x120`,
		"KernelTLSConnectionsRetired": `caddy_ktls_connections_total{instance="a",server="s",outcome="offloaded"} 0+100x120` + "\n" + `caddy_ktls_connections_retired_total{instance="a",server="s"} 0+10x120`,
	}
	var names []string
	for _, group := range groups.Groups {
		for _, rule := range group.Rules {
			names = append(names, rule.Alert)
			if cases[rule.Alert] == "" {
				t.Errorf("no case for %s", rule.Alert)
			}
			if rule.Annotations["summary"] == "" || rule.Annotations["description"] == "" || rule.Labels["severity"] == "" {
				t.Errorf("%s says too little", rule.Alert)
			}
			for firing, series := range cases {
				if got := fires(t, series, rule.Expr); got != (firing == rule.Alert) {
					t.Errorf("%s with the series for %q: fires %v", rule.Alert, firing, got)
				}
			}
		}
	}
	if slices.Sort(names); len(slices.Compact(names)) != len(cases)-1 {
		t.Errorf("alerts %v", names)
	}
}

// fires reports whether an expression has a value after two hours.
func fires(t *testing.T, series, expr string) bool {
	t.Helper()
	storage := promqltest.LoadedStorage(t, "load 1m\n  "+strings.ReplaceAll(strings.TrimSpace(series), "\n", "\n  ")+"\n")
	engine := promqltest.NewTestEngine(t, false, 0, promqltest.DefaultMaxSamplesPerQuery)
	query, err := engine.NewInstantQuery(t.Context(), storage, nil, expr, time.Unix(0, 0).Add(2*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	defer query.Close()
	result := query.Exec(t.Context())
	if result.Err != nil {
		t.Fatal(result.Err)
	}
	vector, ok := result.Value.(promql.Vector)
	if !ok {
		t.Fatalf("%s is no vector", expr)
	}
	return len(vector) > 0
}
