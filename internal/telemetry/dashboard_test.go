package telemetry

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The dashboard asks for metrics and labels that there are.
func TestDashboard(t *testing.T) {
	var dashboard struct {
		Title, UID    string
		SchemaVersion int
		Templating    struct {
			List []struct {
				Name, Type, Definition string
				Query                  any
			}
		}
		Panels []struct {
			ID                 int
			Title, Description string
			Datasource         struct{ UID string }
			Targets            []struct {
				RefID, Expr, LegendFormat string
				Datasource                struct{ UID string }
			}
		}
	}
	if err := json.Unmarshal([]byte(readFile(t, "examples/grafana.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	if dashboard.Title == "" || dashboard.UID == "" || dashboard.SchemaVersion < 38 { // Grafana 10
		t.Errorf("dashboard %q, %q, version %d", dashboard.Title, dashboard.UID, dashboard.SchemaVersion)
	}
	labels := labelsOf(allMetrics(t))
	variables := make(map[string]string)
	for _, variable := range dashboard.Templating.List {
		variables[variable.Name] = variable.Type
		if variable.Type == "query" {
			query := regexp.MustCompile(`^label_values\((\w+), (\w+)\)$`).FindStringSubmatch(variable.Definition)
			if query == nil || !slices.Contains(labels[query[1]], query[2]) {
				t.Errorf("variable %s: %s", variable.Name, variable.Definition)
			}
		}
	}
	if variables["datasource"] != "datasource" || variables["server"] != "query" {
		t.Errorf("variables %v", variables)
	}

	ids := make(map[int]bool)
	shown := make(map[string]bool)
	for _, panel := range dashboard.Panels {
		if panel.ID == 0 || ids[panel.ID] || panel.Title == "" || panel.Description == "" || len(panel.Targets) == 0 || panel.Datasource.UID != "${datasource}" {
			t.Errorf("panel %d, %q: no id of its own, title, description, query or data source", panel.ID, panel.Title)
		}
		ids[panel.ID] = true
		for _, target := range panel.Targets {
			mistakes, by := mistakesInQuery(target.Expr, labels)
			for _, legend := range regexp.MustCompile(`\{\{(\w+)\}\}`).FindAllStringSubmatch(target.LegendFormat, -1) {
				if !slices.Contains(by, legend[1]) {
					mistakes = append(mistakes, "the legend has "+legend[1])
				}
			}
			for _, variable := range regexp.MustCompile(`\$(\w+)`).FindAllStringSubmatch(target.Expr, -1) {
				if name := variable[1]; variables[name] == "" && name != "__rate_interval" {
					mistakes = append(mistakes, "no variable "+name)
				}
			}
			if len(mistakes) > 0 || target.Datasource.UID != "${datasource}" {
				t.Errorf("panel %q, query %s: %s", panel.Title, target.RefID, strings.Join(mistakes, ", "))
			}
			for name := range labels {
				shown[name] = shown[name] || strings.Contains(target.Expr, name)
			}
		}
	}
	for name := range labels {
		if !shown[name] {
			t.Errorf("no panel has %s", name)
		}
	}
}
