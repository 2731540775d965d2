package repo_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil/caddytest"
)

func docsPages(t testing.TB) []string {
	t.Helper()
	pages, err := filepath.Glob("docs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatal("no pages", err)
	}
	return pages
}

// Every block in docs/ is of a kind that is checked. Caddyfiles are as `caddy
// fmt` leaves them and valid, JSON is a whole configuration and valid, and other
// files and code are quoted from examples/. Commands (sh) are run by
// integration_test.
func TestDocs(t *testing.T) {
	for _, page := range docsPages(t) {
		t.Run(filepath.Base(page), func(t *testing.T) {
			for _, b := range testutil.ReadPage(t, page).Blocks {
				switch b.Kind {
				case "sh":
				case "promql": // see TestMetricsExamples
				case "console": // what TestTranscript of integration_test has printed
				case "caddyfile":
					if err := caddy.Validate(caddytest.Config(t, b.Body)); err != nil {
						t.Errorf("%v:\n%s", err, b.Body)
					}
				case "json":
					config := caddytest.ParseConfig(t, b.Body)
					if err := caddy.Validate(config); err != nil {
						t.Errorf("%v:\n%s", err, b.Body)
					}
				case "go", "ini", "yaml":
					if !quoted(t, b.Body) {
						t.Errorf("in no file of examples/:\n%s", b.Body)
					}
				default:
					t.Errorf("block of unknown kind %q:\n%s", b.Kind, b.Body)
				}
			}
		})
	}
}

// quoted says whether a file in examples/ has this text.
func quoted(t testing.TB, text string) bool {
	t.Helper()
	found := false
	err := filepath.WalkDir("examples", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			found = found || strings.Contains(testutil.ReadFile(t, path), text)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// The page's JSON is its Caddyfile and the ticket keys, and its command makes
// the one of the other.
func TestDocsScaling(t *testing.T) {
	var caddyfile, config, command string
	for _, b := range testutil.ReadPage(t, "docs/scaling.md").Blocks {
		switch b.Kind {
		case "caddyfile":
			caddyfile = b.Body
		case "json":
			config = b.Body
		case "sh":
			command = b.Body
		}
	}
	adapted, err := caddytest.Adapt(caddyfile)
	if err != nil {
		t.Fatal(err)
	}
	want := testutil.ParseJSON[any](t, adapted).(map[string]any)
	want["apps"].(map[string]any)["tls"] = testutil.ParseJSON[any](t,
		`{"session_tickets": {"key_source": {"provider": "distributed"}}}`)
	if got := testutil.ParseJSON[any](t, config); !reflect.DeepEqual(got, any(want)) {
		t.Errorf("%s\nis adapted to\n%s", caddyfile, adapted)
	}

	if _, err := exec.LookPath("jq"); err != nil {
		t.Skip(err)
	}
	_, command, ok := strings.Cut(command, "caddy adapt --config /etc/caddy/Caddyfile |")
	command, ok2 := strings.CutSuffix(command, ">/etc/caddy/caddy.json\n")
	if !ok || !ok2 {
		t.Fatal("the page has another command")
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", command)
	cmd.Stdin = strings.NewReader(adapted)
	if got := testutil.ParseJSON[any](t, output(t, cmd)); !reflect.DeepEqual(got, any(want)) {
		t.Errorf("%s\nmakes %v", command, got)
	}
}

// The pages that show an example's Caddyfile show all of it but its comment.
func TestDocsXAccel(t *testing.T) {
	_, example, ok := strings.Cut(testutil.ReadFile(t, "examples/xaccel.Caddyfile"), "example.com {\n")
	if page := testutil.ReadFile(t, "docs/authorised-downloads.md"); !ok || !strings.Contains(page, "```caddyfile\nexample.com {\n"+example+"```") {
		t.Error("docs/authorised-downloads.md has another Caddyfile than examples/xaccel.Caddyfile")
	}
}

var (
	linkTarget = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading    = regexp.MustCompile(`(?m)^#+ (.*)$`)
	notAnchor  = regexp.MustCompile(`[^a-z0-9 _-]`)
)

// Links to files, and to headings in them, lead somewhere, and the index has
// every page.
func TestDocsLinks(t *testing.T) {
	others, err := filepath.Glob("*.md")
	testutil.Must(t, err)
	others = append(others, "bench/README.md", "examples/README.md", "integration_test/vm/README.md")
	for _, page := range append(docsPages(t), others...) {
		for _, match := range linkTarget.FindAllStringSubmatch(testutil.ReadFile(t, page), -1) {
			if strings.Contains(match[1], "://") {
				continue
			}
			name, anchor, _ := strings.Cut(match[1], "#")
			target := page
			if name != "" {
				target = filepath.Join(filepath.Dir(page), name)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %v", page, err)
			} else if anchor != "" && !hasHeading(t, target, anchor) {
				t.Errorf("%s: %s has no heading for #%s", page, target, anchor)
			}
		}
	}
	index := testutil.ReadFile(t, "docs/README.md")
	for _, page := range docsPages(t) {
		if name := filepath.Base(page); name != "README.md" && !strings.Contains(index, "("+name+")") {
			t.Errorf("docs/README.md does not link to %s", name)
		}
	}
}

func hasHeading(t testing.TB, page, anchor string) bool {
	t.Helper()
	for _, match := range heading.FindAllStringSubmatch(testutil.ReadFile(t, page), -1) {
		if strings.ReplaceAll(notAnchor.ReplaceAllString(strings.ToLower(match[1]), ""), " ", "-") == anchor {
			return true
		}
	}
	return false
}
