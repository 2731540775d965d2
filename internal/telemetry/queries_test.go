package telemetry

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	selectorPattern = regexp.MustCompile(`(\w+)(?:\{([^}]*)\})?`)
	byPattern       = regexp.MustCompile(`\bby \(([^)]*)\)`)
	matcherPattern  = regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)`)
	noMetricPattern = regexp.MustCompile(`"[^"]*"|\[[^\]]*\]|\bby \([^)]*\)`)
)

// What our queries have of PromQL's words.
var promQL = []string{"sum", "min", "rate", "increase", "or", "vector"}

// hasLabel reports whether a metric has a label. Prometheus adds the label instance.
func hasLabel(labels map[string][]string, metric, label string) bool {
	known, ok := labels[metric]
	return ok && (label == "instance" || slices.Contains(known, label))
}

// mistakesInQuery returns what a query has that the metrics don't, and the labels
// that it keeps.
func mistakesInQuery(query string, labels map[string][]string) (mistakes, by []string) {
	var names []string
	bare := noMetricPattern.ReplaceAllString(query, "")
	for _, selector := range selectorPattern.FindAllStringSubmatch(bare, -1) {
		name := selector[1]
		if slices.Contains(promQL, name) || strings.Trim(name, "0123456789") == "" {
			continue
		}
		if _, ok := labels[name]; !ok {
			mistakes = append(mistakes, "no metric "+name)
			continue
		}
		names = append(names, name)
		for _, matcher := range matcherPattern.FindAllStringSubmatch(selector[2], -1) {
			if !hasLabel(labels, name, matcher[1]) {
				mistakes = append(mistakes, name+" has no label "+matcher[1])
			}
		}
	}
	if len(names) == 0 {
		mistakes = append(mistakes, "no metric at all")
	}
	for _, clause := range byPattern.FindAllStringSubmatch(query, -1) {
		for label := range strings.SplitSeq(clause[1], ",") {
			label = strings.TrimSpace(label)
			by = append(by, label)
			for _, name := range names {
				if !hasLabel(labels, name, label) {
					mistakes = append(mistakes, name+" has no label "+label)
				}
			}
		}
	}
	return mistakes, by
}

func TestMistakesInQuery(t *testing.T) {
	labels := map[string][]string{"a_total": {"x", "y"}, "b": {"y"}}
	for _, tt := range []struct {
		query string
		wrong bool
	}{
		{`sum by (x, y) (rate(a_total{x=~"$z", y!="b"}[$__interval])) > 0`, false},
		{`sum(b) / (sum(rate(a_total[5m])) or vector(0))`, false},
		{`sum(rate(c_total[5m]))`, true},
		{`sum(rate(a_total[5m])) + d`, true},
		{`rate(a_total{z="1"}[5m])`, true},
		{`min by (instance) (b{instance=~"$i"})`, false},
		{`sum by (x) (b)`, true},
		{`vector(1)`, true},
	} {
		if mistakes, _ := mistakesInQuery(tt.query, labels); len(mistakes) > 0 != tt.wrong {
			t.Errorf("%s: %v", tt.query, mistakes)
		}
	}
}
