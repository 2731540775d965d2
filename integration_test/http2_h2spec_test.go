//go:build linux

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
)

// h2spec finds the same, case for case, whether connections are in the kernel
// or the site is without the module: what Go's HTTP/2 server gets wrong, it may.
func TestH2spec(t *testing.T) {
	onKernel(t, "7.2")
	requireKernelTLS(t)
	requireProgram(t, "h2spec")
	const cases = 146 // that h2spec has
	sites := []string{"all", "large", "without"}
	caddies := map[string]*caddy{}
	before := map[string]counts{}
	for _, name := range sites {
		c := newCaddy(t)
		c.addFile(t, "index.html", large)
		// What is posted is read: to an answer that comes before it
		// h2spec's verdicts are a matter of chance.
		caddyfile := strings.Replace(offloading(name), "root", "@post method POST\n\trespond @post {http.request.body}\n\troot", 1)
		if name == "without" {
			caddyfile = strings.Replace(caddyfile, "ktls {\n\t\toffload without\n\t}", "", 1)
		}
		c.start(t, caddyfile)
		caddies[name], before[name] = c, c.metrics(t)
	}
	// All at once: h2spec waits a lot.
	h2spec := func(sites []string, sections ...string) map[string]h2specResults {
		all := map[string]h2specResults{}
		var mu sync.Mutex
		var ended sync.WaitGroup
		for _, name := range sites {
			ended.Go(func() {
				results := caddies[name].h2spec(t, sections...)
				mu.Lock()
				defer mu.Unlock()
				all[name] = results
			})
		}
		ended.Wait()
		return all
	}

	found := h2spec(sites, "generic", "http2", "hpack")
	want := found["without"]
	if len(want) != cases {
		t.Errorf("%d cases, want %d", len(want), cases)
	}
	ids := slices.Sorted(maps.Keys(want))
	for _, id := range ids {
		if want[id].verdict != "passed" {
			t.Logf("without the module, %s: %s", id, want[id].verdict)
		}
	}
	for _, name := range sites[:2] {
		t.Run(name, func(t *testing.T) {
			c, before := caddies[name], before[name]
			after := c.metrics(t)
			// Some cases open several connections.
			if n := after["connections:offloaded"] - before["connections:offloaded"]; n == 0 || name == "all" && n < cases {
				t.Errorf("%d connections are in the kernel", n)
			}
			if n := after["sendfile_bytes"] - before["sendfile_bytes"]; n < large {
				t.Errorf("%d bytes have gone out by sendfile", n)
			}
			// Cases that depend on time are tried again.
			got, want := found[name], want
			differing := got.differing(want, ids)
			for range 2 {
				if len(differing) == 0 {
					break
				}
				var sections []string
				for _, id := range differing {
					t.Logf("to be tried again, %s: %s, without the module %s", id, got[id], want[id])
					section, _, _ := strings.Cut(id, ": ")
					sections = append(sections, section)
				}
				again := h2spec([]string{name, "without"}, sections...)
				got, want = again[name], again["without"]
				differing = got.differing(want, differing)
			}
			for _, id := range differing {
				t.Errorf("%s: %s, without the module %s", id, got[id], want[id])
			}
		})
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
func (c *caddy) h2spec(t testing.TB, sections ...string) h2specResults {
	file := filepath.Join(c.dir, "h2spec.xml")
	_ = os.Remove(file)
	text, err := exec.CommandContext(t.Context(), "h2spec", append([]string{
		"--tls", "--insecure", "--host", "localhost", "--port", c.port, "--strict", "--timeout", "3", "--junit-report", file,
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
