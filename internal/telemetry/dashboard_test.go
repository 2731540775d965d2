package telemetry

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A dashboard is what Grafana imports.
type dashboard struct {
	Title, UID    string
	SchemaVersion int
	Templating    struct {
		List []struct{ Name, Type, Definition string }
	}
	Panels []panel
}

type panel struct {
	ID                 int
	Title, Description string
	Datasource         datasource
	Targets            []target
}

// A target is a query of a panel.
type target struct {
	RefID, Expr, LegendFormat string
	Datasource                datasource
}

type datasource struct{ UID string }

// chosen tells whether it is the data source that the user chooses.
func (d datasource) chosen() bool { return d.UID == "${datasource}" }

// The dashboard asks for metrics and labels that there are, and shows all metrics.
func TestDashboard(t *testing.T) {
	d := testutil.ParseJSON[dashboard](t, testutil.ReadFile(t, "../../examples/grafana.json"))
	if d.Title == "" || d.UID == "" || d.SchemaVersion < 38 { // Grafana 10
		t.Errorf("dashboard %q, %q, version %d", d.Title, d.UID, d.SchemaVersion)
	}
	labels := labelsOf(allMetrics(t))
	variables := d.variables(t, labels)
	ids := make(map[int]bool)
	var queries strings.Builder
	for _, p := range d.Panels {
		if p.ID == 0 || ids[p.ID] || p.Title == "" || p.Description == "" || len(p.Targets) == 0 || !p.Datasource.chosen() {
			t.Errorf("panel %d, %q: no id of its own, title, description, query or data source", p.ID, p.Title)
		}
		ids[p.ID] = true
		for _, query := range p.Targets {
			if mistakes := query.mistakes(variables, labels); len(mistakes) > 0 {
				t.Errorf("panel %q, query %s: %s", p.Title, query.RefID, strings.Join(mistakes, ", "))
			}
			queries.WriteString(query.Expr + "\n")
		}
	}
	for name := range labels {
		if !strings.Contains(queries.String(), name) {
			t.Errorf("no panel has %s", name)
		}
	}
}

// variables returns the types of the dashboard's variables.
func (d *dashboard) variables(t *testing.T, labels map[string][]string) map[string]string {
	t.Helper()
	types := make(map[string]string)
	for _, variable := range d.Templating.List {
		types[variable.Name] = variable.Type
		if variable.Type == "query" {
			query := regexp.MustCompile(`^label_values\((\w+)(?:{.*})?, (\w+)\)$`).FindStringSubmatch(variable.Definition)
			if query == nil || !hasLabel(labels, query[1], query[2]) {
				t.Errorf("variable %s: %s", variable.Name, variable.Definition)
			}
		}
	}
	if types["datasource"] != "datasource" || types["instance"] != "query" || types["server"] != "query" {
		t.Errorf("variables %v", types)
	}
	return types
}

// mistakes returns what a query, its legend and its data source have that there is not.
func (q *target) mistakes(variables map[string]string, labels map[string][]string) []string {
	mistakes, by := mistakesInQuery(q.Expr, labels)
	for _, legend := range regexp.MustCompile(`\{\{(\w+)\}\}`).FindAllStringSubmatch(q.LegendFormat, -1) {
		if !slices.Contains(by, legend[1]) {
			mistakes = append(mistakes, "the legend has "+legend[1])
		}
	}
	for _, variable := range regexp.MustCompile(`\$(\w+)`).FindAllStringSubmatch(q.Expr, -1) {
		if name := variable[1]; variables[name] == "" && name != "__rate_interval" {
			mistakes = append(mistakes, "no variable "+name)
		}
	}
	if !q.Datasource.chosen() {
		mistakes = append(mistakes, "the data source is "+q.Datasource.UID)
	}
	return mistakes
}
