package integration_test

import (
	"encoding/xml"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
)

// h2specSites are Caddies with a site each: with the module, and, under the name
// "without", without it.
type h2specSites map[string]*harness.Caddy

// startH2specSites starts the Caddies. What is posted is read: to an answer that comes
// before it h2spec's verdicts are a matter of chance.
func startH2specSites(t testing.TB) h2specSites {
	t.Helper()
	sites := h2specSites{}
	for _, offload := range []string{"all", "large", without} {
		c := harness.NewCaddy(t)
		c.Root.AddFile(t, "index.html", harness.Large)
		caddyfile := harness.OffloadSite(offload)
		if offload == without {
			caddyfile = strings.Replace(harness.FileSite, "ktls\n", "", 1)
		}
		c.Start(t, strings.Replace(caddyfile, "root", "@post method POST\n\trespond @post {http.request.body}\n\troot", 1))
		sites[offload] = c
	}
	return sites
}

const without = "without"

// run runs sections of h2spec for some of the sites, all at once: it waits a lot.
func (s h2specSites) run(t testing.TB, names []string, sections ...string) map[string]h2specResults {
	all := map[string]h2specResults{}
	var mu sync.Mutex
	var ended sync.WaitGroup
	for _, name := range names {
		ended.Go(func() {
			results := h2spec(t, s[name], sections...)
			mu.Lock()
			defer mu.Unlock()
			all[name] = results
		})
	}
	ended.Wait()
	return all
}

// h2spec finds the same, case for case, whether connections are in the kernel
// or the site is without the module: what Go's HTTP/2 server gets wrong, it may.
func TestH2spec(t *testing.T) {
	harness.OnKernel(t, "7.2")
	harness.RequireKernelTLS(t)
	harness.RequireProgram(t, "h2spec")
	const cases = 146 // that h2spec has
	sites := startH2specSites(t)
	before := map[string]harness.Counts{}
	for name, c := range sites {
		before[name] = c.Metrics(t)
	}
	found := sites.run(t, slices.Collect(maps.Keys(sites)), "generic", "http2", "hpack")
	want := found[without]
	if len(want) != cases {
		t.Errorf("%d cases, want %d", len(want), cases)
	}
	for id, result := range want {
		if result.verdict != "passed" {
			t.Logf("without the module, %s: %s", id, result.verdict)
		}
	}
	for _, name := range []string{"all", "large"} {
		t.Run(name, func(t *testing.T) {
			before, after := before[name], sites[name].Metrics(t)
			// Some cases open several connections.
			if n := after["connections:offloaded"] - before["connections:offloaded"]; n == 0 || name == "all" && n < cases {
				t.Errorf("%d connections are in the kernel", n)
			}
			if n := after["sendfile_bytes"] - before["sendfile_bytes"]; n < harness.Large {
				t.Errorf("%d bytes have gone out by sendfile", n)
			}
			sites.compare(t, name, found[name], want)
		})
	}
}

// compare compares the results of a site with those without the module. Cases that
// depend on time are tried again.
func (s h2specSites) compare(t testing.TB, name string, got, want h2specResults) {
	t.Helper()
	differing := got.differing(want, slices.Sorted(maps.Keys(want)))
	for range 2 {
		if len(differing) == 0 {
			return
		}
		var sections []string
		for _, id := range differing {
			t.Logf("to be tried again, %s: %s, without the module %s", id, got[id], want[id])
			section, _, _ := strings.Cut(id, ": ")
			sections = append(sections, section)
		}
		again := s.run(t, []string{name, without}, sections...)
		got, want = again[name], again[without]
		differing = got.differing(want, differing)
	}
	for _, id := range differing {
		t.Errorf("%s: %s, without the module %s", id, got[id], want[id])
	}
}

// h2specResults have the result of each case, by its section and description.
type h2specResults map[string]h2specResult

type h2specResult struct {
	verdict string // "passed", "failed" or "skipped"
	why     string // what was expected, and in the last line what came
}

func (r h2specResult) String() string { return r.verdict + " " + r.why }

// differing returns those of the cases that have another verdict than in other,
// or none.
func (r h2specResults) differing(other h2specResults, cases []string) []string {
	var ids []string
	for _, id := range cases {
		if r[id].verdict != other[id].verdict || r[id].verdict == "" {
			ids = append(ids, id)
		}
	}
	return ids
}

// h2spec runs sections of h2spec.
func h2spec(t testing.TB, c *harness.Caddy, sections ...string) h2specResults {
	file := filepath.Join(c.Dir, "h2spec.xml")
	_ = os.Remove(file)
	text, err := exec.CommandContext(t.Context(), "h2spec", append([]string{
		"--tls", "--insecure", "--host", "localhost", "--port", c.Port, "--strict", "--timeout", "3", "--junit-report", file,
	}, sections...)...).CombinedOutput()
	// With the code 1 a case has failed, unless there is no report.
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Error(err)
		return nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Logf("h2spec: %v\n%s", err, text) // a connection took too long, and no case has a result
		return nil
	}
	var report struct {
		Suites []struct {
			Package string `xml:"package,attr"`
			Cases   []struct {
				Description string    `xml:"classname,attr"`
				Skipped     *struct{} `xml:"skipped"`
				Failure     *string   `xml:"failure"`
				Error       *string   `xml:"error"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(data, &report); err != nil {
		t.Errorf("h2spec: %v\n%s", err, data)
		return nil
	}
	results := h2specResults{}
	for _, suite := range report.Suites {
		for _, test := range suite.Cases {
			result := h2specResult{"passed", ""}
			switch {
			case test.Skipped != nil:
				result.verdict = "skipped"
			case test.Failure != nil:
				result = h2specResult{"failed", *test.Failure}
			case test.Error != nil:
				result = h2specResult{"failed", *test.Error}
			}
			results[suite.Package+": "+test.Description] = result
		}
	}
	return results
}
