package caddyktls

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/zap"

	"github.com/caddy-ktls/caddy-ktls/fileserver"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// newCounters returns those of a server whose name is new.
func newCounters(t testing.TB) *counters { return countersOf(t.Name() + rand.Text()) }

// insert returns a writer that no connection is known for, with what is known of
// the response.
func insert(t testing.TB) (http.ResponseWriter, *fileserver.Response) {
	t.Helper()
	return fileserver.Insert(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil),
		&fileserver.Options{MinSize: fileserver.DefaultMinSize})
}

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
	if err := registerMetrics(registry); err != nil {
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
	var inReadme []string
	for _, row := range rows(section(t, "README.md", "## Reasons")) {
		inReadme = append(inReadme, backquoted(row[0])...)
	}
	wantSame(t, "README.md", inReadme, slices.Concat(connections, responses, []string{"remainder", "retired"}))

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
	_, text, ok := strings.Cut(readFile(t, file), "\n"+heading+"\n")
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

var (
	selectorPattern = regexp.MustCompile(`(\w+)(?:\{([^}]*)\})?`)
	byPattern       = regexp.MustCompile(`\bby \(([^)]*)\)`)
	matcherPattern  = regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)`)
	noMetricPattern = regexp.MustCompile(`"[^"]*"|\[[^\]]*\]|\bby \([^)]*\)`)
)

// What our queries have of PromQL's words.
var promQL = []string{"sum", "rate", "increase", "or", "vector"}

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
		known, ok := labels[name]
		if !ok {
			mistakes = append(mistakes, "no metric "+name)
			continue
		}
		names = append(names, name)
		for _, matcher := range matcherPattern.FindAllStringSubmatch(selector[2], -1) {
			if !slices.Contains(known, matcher[1]) {
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
				if !slices.Contains(labels[name], label) {
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
		{`sum by (x) (b)`, true},
		{`vector(1)`, true},
	} {
		if mistakes, _ := mistakesInQuery(tt.query, labels); len(mistakes) > 0 != tt.wrong {
			t.Errorf("%s: %v", tt.query, mistakes)
		}
	}
}

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

// Queries, Caddyfiles and JSON in docs/metrics.md are right.
func TestMetricsExamples(t *testing.T) {
	labels := labelsOf(allMetrics(t))
	kinds := make(map[string]int)
	for i, block := range strings.Split(readFile(t, "docs/metrics.md"), "```") {
		if i%2 == 0 {
			continue // text
		}
		kind, body, _ := strings.Cut(block, "\n")
		kinds[kind]++
		switch kind {
		case "promql":
			if mistakes, _ := mistakesInQuery(body, labels); len(mistakes) > 0 {
				t.Errorf("%v in %s", mistakes, body)
			}
		case "caddyfile":
			if err := caddy.Validate(testConfig(t, body)); err != nil {
				t.Errorf("%v:\n%s", err, body)
			}
		case "json":
			var status Status
			if err := json.Unmarshal([]byte(body), &status); err != nil {
				t.Fatal(err)
			}
			again, err := json.Marshal(status)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(parseJSON(t, string(again)), parseJSON(t, body)) {
				t.Errorf("status has other fields:\n%s", again)
			}
		}
	}
	if kinds["promql"] == 0 || kinds["caddyfile"] == 0 || kinds["json"] == 0 {
		t.Errorf("examples: %v", kinds)
	}
}

// statusOf returns what is counted for a server.
func statusOf(t testing.TB, name string) ServerStatus {
	t.Helper()
	status, err := currentStatus()
	if err != nil {
		t.Fatal(err)
	}
	for _, server := range status.Servers {
		if server.Name == name {
			return *server
		}
	}
	return ServerStatus{}
}

func TestDecided(t *testing.T) {
	m := newCounters(t)
	for _, d := range []ktls.Decision{
		{State: ktls.Offloaded, Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256},
		{State: ktls.Offloaded, Version: tls.VersionTLS12, CipherSuite: tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256},
		{State: ktls.Cipher, Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256},
		{State: ktls.NotTCP}, // before the handshake
	} {
		m.decided(d)
	}
	got := statusOf(t, m.name)
	if want := map[string]int64{"offloaded": 2, "cipher": 1, "not_tcp": 1}; !maps.Equal(got.Connections, want) || got.OffloadedNow != 2 {
		t.Errorf("got %+v", got)
	}
	labels := make(map[string]bool)
	for _, family := range allMetrics(t) {
		for _, metric := range family.GetMetric() {
			values := make(map[string]string)
			for _, label := range metric.GetLabel() {
				values[label.GetName()] = label.GetValue()
			}
			if family.GetName() == "caddy_ktls_connections_total" && values["server"] == m.name && values["outcome"] != "cipher" {
				labels[values["version"]+" "+values["cipher"]] = true
			}
		}
	}
	for _, want := range []string{"TLS 1.3 TLS_AES_128_GCM_SHA256", "TLS 1.2 TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", " "} {
		if !labels[want] {
			t.Errorf("no connection is counted under %q, but %v", want, labels)
		}
	}
}

// respond writes a body of some kind to a response, and returns how many bytes
// are copied.
func respond(t testing.TB, w http.ResponseWriter, kind string) int64 {
	t.Helper()
	switch kind {
	case "nothing":
		return 0
	case "text":
		n, err := w.Write([]byte("a text"))
		if err != nil {
			t.Fatal(err)
		}
		return int64(n)
	}
	data := make([]byte, fileserver.DefaultMinSize)
	if kind == "small file" {
		data = data[1:]
	}
	file := openFile(t, data)
	http.ServeContent(w, httptest.NewRequest(http.MethodGet, "/", nil), file.Name(), time.Time{}, file)
	return int64(len(data))
}

// A response of no connection that can be offloaded.
func TestDone(t *testing.T) {
	for _, tt := range []struct {
		body, reason string
		sending      bool // counted before it is sent
	}{
		{"nothing", "not_a_file", false},
		{"text", "not_a_file", false},
		{"small file", "small", false},
		{"large file", "not_offloadable", true},
	} {
		t.Run(tt.body, func(t *testing.T) {
			m := newCounters(t)
			w, response := insert(t)
			n := respond(t, w, tt.body)
			if response.Eligible() != tt.sending {
				t.Errorf("eligible: %v", response.Eligible())
			}
			m.done(response)
			got := statusOf(t, m.name)
			responses, bytes := map[string]int64{tt.reason: 1}, map[string]int64{tt.reason: n}
			if tt.sending {
				responses = map[string]int64{}
			}
			if n == 0 {
				bytes = map[string]int64{}
			}
			if !maps.Equal(got.Responses, responses) || !maps.Equal(got.CopiedBytes, bytes) {
				t.Errorf("got %+v", got)
			}
		})
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

// The placeholders have values in the handlers behind, and afterwards.
func TestPlaceholders(t *testing.T) {
	for _, tt := range []struct {
		name          string
		inert         bool
		plain         bool // no TLS
		body          string
		before, after any
		bytes         any
		err           error
	}{
		{name: "no kernel TLS", inert: true, body: "large file", before: "kernel_unsupported", after: "kernel_unsupported", bytes: int64(0)},
		{name: "text", body: "text", before: "not_offloadable", after: "not_offloadable", bytes: int64(0)},
		{name: "file", body: "large file", before: "not_offloadable", after: "not_offloadable", bytes: int64(0)},
		{name: "error", body: "nothing", before: "not_offloadable", after: "not_offloadable", bytes: int64(0), err: errors.New("bad")},
		{name: "plain HTTP", plain: true, body: "text"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			repl := caddy.NewReplacer()
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r = r.WithContext(context.WithValue(r.Context(), caddy.ReplacerCtxKey, repl))
			if !tt.plain {
				r.TLS = new(tls.ConnectionState)
			}
			h := &Handler{inert: tt.inert, responses: newResponses(zap.NewNop(), t.Name()+rand.Text())}
			h.options = fileserver.Options{MinSize: fileserver.DefaultMinSize, Sending: h.responses.sending}
			want := func(when, key string, want any) {
				if got, ok := repl.Get("http.ktls." + key); got != want || ok != (want != nil) {
					t.Errorf("%s the body, %s is %v, want %v", when, key, got, want)
				}
			}
			err := h.ServeHTTP(httptest.NewRecorder(), r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
				want("before", "status", tt.before)
				want("before", "sendfile_bytes", tt.bytes)
				respond(t, w, tt.body)
				return tt.err
			}))
			if !errors.Is(err, tt.err) {
				t.Errorf("error %v, want %v", err, tt.err)
			}
			want("after", "status", tt.after)
			want("after", "sendfile_bytes", tt.bytes)
			if _, ok := repl.Get("http.ktls.other"); ok {
				t.Error("another placeholder is known")
			}
		})
	}
}

// openFile opens a new file with that content.
func openFile(t testing.TB, content []byte) *os.File {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}
