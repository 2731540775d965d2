package telemetry

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/caddy-ktls/caddy-ktls/fileserver"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// Metrics are documented as they are, and no others.
func TestMetricsDocumented(t *testing.T) {
	documented := make(map[string]string)
	for _, row := range rows(section(t, "docs/metrics.md", "## Metrics")) {
		name := strings.Join(backquoted(row[0]), "")
		if len(row) != 5 || name == "" || documented[name] != "" || row[3] == "" || row[4] == "" {
			t.Fatalf("bad row: %q", row)
		}
		labels := backquoted(row[2])
		slices.Sort(labels)
		documented[name] = row[1] + " by " + strings.Join(labels, ", ")
	}
	real := make(map[string]string)
	families := allMetrics(t)
	labels := labelsOf(families)
	for _, family := range families {
		real[family.GetName()] = strings.ToLower(family.GetType().String()) + " by " + strings.Join(labels[family.GetName()], ", ")
	}
	if !reflect.DeepEqual(documented, real) {
		t.Errorf("documented:\n%v\nreal:\n%v", documented, real)
	}
}

// Words of outcomes and reasons are documented, and no others.
func TestReasonsDocumented(t *testing.T) {
	connections := wordsOfConnections()
	responses := []string{"sendfile"}
	for _, reason := range fileserver.Reasons() {
		responses = append(responses, string(reason))
	}
	var inPage []string
	for _, row := range rows(testutil.ReadFile(t, "../../docs/reasons.md")) {
		inPage = append(inPage, backquoted(row[0])...)
	}
	wantSame(t, "docs/reasons.md", inPage, slices.Concat(connections, responses, []string{"remainder", "retired"}))

	var labels [][]string
	for _, row := range rows(section(t, "docs/metrics.md", "## Labels")) {
		labels = append(labels, append([]string{strings.Join(backquoted(row[0]), "")}, row[1:]...))
	}
	for _, tt := range []struct {
		label, metric string
		want          []string
	}{
		{"outcome", "`caddy_ktls_connections_total`", connections},
		{"outcome", "`caddy_ktls_responses_total`", responses},
		{"mode", "`caddy_ktls_kernel_connections`", []string{"software", "device"}},
	} {
		i := slices.IndexFunc(labels, func(row []string) bool { return row[0] == tt.label && row[1] == tt.metric })
		if i < 0 {
			t.Errorf("docs/metrics.md does not have the label %s of %s", tt.label, tt.metric)
			continue
		}
		wantSame(t, "docs/metrics.md, "+tt.metric, backquoted(labels[i][2]), tt.want)
	}
}

func wordsOfConnections() (words []string) {
	for _, state := range ktls.States() {
		words = append(words, state.String())
	}
	return words
}

func wantSame(t testing.TB, where string, got, want []string) {
	t.Helper()
	got, want = slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))
	if !slices.Equal(got, want) {
		t.Errorf("%s has\n%v\nwant\n%v", where, got, want)
	}
}

// section returns what a document has between a heading and the next.
func section(t testing.TB, file, heading string) string {
	t.Helper()
	_, text, ok := strings.Cut(testutil.ReadFile(t, "../../"+file), "\n"+heading+"\n")
	if !ok {
		t.Fatalf("%s has no heading %q", file, heading)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	return text
}

// rows returns the cells of the tables in a text, without heads.
func rows(text string) (all [][]string) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case !strings.HasPrefix(line, "|"):
		case strings.HasPrefix(line, "|---"):
			all = all[:len(all)-1] // the head
		default:
			cells := strings.Split(strings.Trim(line, "|"), "|")
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			all = append(all, cells)
		}
	}
	return all
}

// backquoted returns the words between backquotes.
func backquoted(text string) (words []string) {
	for i, part := range strings.Split(text, "`") {
		if i%2 == 1 {
			words = append(words, part)
		}
	}
	return words
}

// The alerts ask for metrics and labels that there are.
func TestAlerts(t *testing.T) {
	var alerts struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	if err := yaml.Unmarshal([]byte(testutil.ReadFile(t, "../../examples/alerts.yaml")), &alerts); err != nil {
		t.Fatal(err)
	}
	labels := labelsOf(allMetrics(t))
	for _, group := range alerts.Groups {
		for _, rule := range group.Rules {
			if mistakes, _ := mistakesInQuery(rule.Expr, labels); len(mistakes) > 0 {
				t.Errorf("%s: %v", rule.Alert, mistakes)
			}
		}
	}
	if len(alerts.Groups) == 0 {
		t.Error("no alerts")
	}
}

// Queries and JSON in docs/metrics.md are right. TestDocs of integration_test/repo
// looks at its Caddyfiles.
func TestMetricsExamples(t *testing.T) {
	labels := labelsOf(allMetrics(t))
	kinds := make(map[string]int)
	for _, block := range testutil.ReadPage(t, "../../docs/metrics.md").Blocks {
		kinds[block.Kind]++
		switch block.Kind {
		case "promql":
			if mistakes, _ := mistakesInQuery(block.Body, labels); len(mistakes) > 0 {
				t.Errorf("%v in %s", mistakes, block.Body)
			}
		case "json":
			again, err := json.Marshal(testutil.ParseJSON[Status](t, block.Body))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(testutil.ParseJSON[any](t, string(again)), testutil.ParseJSON[any](t, block.Body)) {
				t.Errorf("status has other fields:\n%s", again)
			}
		}
	}
	if kinds["promql"] == 0 || kinds["caddyfile"] == 0 || kinds["json"] == 0 {
		t.Errorf("examples: %v", kinds)
	}
}
