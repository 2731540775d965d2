package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// What differs among kernels is shown, and nothing is shown twice.
func TestResult(t *testing.T) {
	for _, test := range []struct {
		name    string
		results map[string]string
		want    string
	}{
		{"the same on all", map[string]string{"6.1": "whole", "6.12": "whole", "7.2": "whole"}, "whole"},
		{"one differs", map[string]string{"6.1": "closed", "6.12": "closed", "7.2": "rekeyed"}, "6.1, 6.12: closed<br>7.2: rekeyed"},
		{"the one between differs", map[string]string{"6.1": "a", "6.12": "b: c", "7.2": "a"}, "6.1, 7.2: a<br>6.12: b: c"},
		{"all differ", map[string]string{"6.1": "a", "6.12": "b", "7.2": "c"}, "6.1: a<br>6.12: b<br>7.2: c"},
		{"not tried on all", map[string]string{"6.12": "whole", "7.2": "whole"}, "6.12, 7.2: whole"},
		{"with colons", map[string]string{"6.1": "HTTP/1.1: whole", "6.12": "HTTP/1.1: whole", "7.2": "HTTP/1.1: whole"}, "HTTP/1.1: whole"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := row{results: test.results}.result()
			if got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
			parsed := parseResult(got)
			for _, kernel := range kernels {
				if parsed[kernel] != test.results[kernel] {
					t.Errorf("read again, %s has %q, want %q", kernel, parsed[kernel], test.results[kernel])
				}
			}
		})
	}
}

// The tables of docs/testing.md are as they would be written.
func TestTestingMarkdown(t *testing.T) {
	set(t, docs, "../../docs")
	_, tables, err := readPage("testing.md")
	if err != nil {
		t.Fatal(err)
	}
	faults, err := parseFaults(tables)
	if err != nil {
		t.Fatal(err)
	}
	if got := faultsMarkdown(faults); got != tables || len(faults) == 0 {
		t.Errorf("the tables would be written otherwise:\n%s", got)
	}
}

// A run of a few tests complains of rows that are missing or say something else, and
// writes no other rows than its own.
func TestTesting(t *testing.T) {
	const page = "By hand.\n\n" + mark + `
## Files

| Fault | How | Result |
|---|---|---|
| emptied | during its download | cut |
| on ext4 | whole | whole |
`
	for _, test := range []struct {
		name, found string // on 6.12
		mode        string // of the kernel
		complaint   string
		written     []string // rows, if not the same
	}{
		{name: "nothing"},
		{name: "the same", found: "Files\ton ext4\twhole\twhole\n"},
		{
			name: "another result", found: "Files\ton ext4\twhole\tcopied\n",
			complaint: "Files | on ext4 | whole\n    found on 6.12: copied\n    the document: whole",
			written:   []string{"| emptied | during its download | cut |", "| on ext4 | whole | 6.1, 7.2: whole<br>6.12: copied |"},
		},
		{
			name: "a new row", found: "Files\ton XFS\twhole\twhole\n",
			complaint: "Files | on XFS | whole\n    found on 6.12: whole\n    the document: no such row",
			written:   []string{"| emptied | during its download | cut |", "| on XFS | whole | 6.12: whole |", "| on ext4 | whole | whole |"},
		},
		{
			name: "a new row in another mode", found: "Files\ton XFS\twhole\twhole\n", mode: "-fips",
			complaint: "Files | on XFS | whole\n    found on 6.12: whole\n    the document: no such row",
			written:   []string{"| emptied | during its download | cut |", "| on XFS | whole | 6.12: whole |", "| on ext4 | whole | whole |"},
		},
		{
			name: "another kind", found: "Disks\ton ext4\twhole\twhole\n",
			complaint: "Disks | on ext4 | whole\n    found on 6.12: whole\n    the document: no such row",
			written:   []string{"| on ext4 | whole | 6.12: whole |", "| emptied | during its download | cut |", "| on ext4 | whole | whole |"},
		},
		{
			name: "two results", found: "Files\ton ext4\twhole\twhole\nFiles\ton ext4\twhole\tcut\n",
			complaint: "Files | on ext4 | whole: two results on 6.12: whole, and cut",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			set(t, docs, t.TempDir())
			found := folder(t.TempDir())
			testutil.WriteFile(t, filepath.Join(*docs, "testing.md"), []byte(page))
			testutil.WriteFile(t, filepath.Join(string(found), "6.12"+test.mode, "ktls/faults"), []byte(test.found))

			err := found.testing()
			if test.complaint == "" && err != nil {
				t.Fatal(err)
			}
			if test.complaint != "" && (err == nil || !strings.Contains(err.Error(), test.complaint)) {
				t.Errorf("%v, want\n%s", err, test.complaint)
			}

			set(t, write, true)
			if err := found.testing(); err != nil {
				if test.written != nil {
					t.Error(err)
				}
				return
			}
			got, err := os.ReadFile(filepath.Join(*docs, "testing.md"))
			if err != nil {
				t.Fatal(err)
			}
			if test.written == nil {
				if string(got) != page {
					t.Errorf("written:\n%s", got)
				}
				return
			}
			rows := strings.Join(rowsOf(string(got)), "\n")
			if want := strings.Join(test.written, "\n"); rows != want {
				t.Errorf("written:\n%s\nwant:\n%s", rows, want)
			}
		})
	}
}

// A document has to be what is found, if all of it is. A run of everything has to find it.
func TestWriteOrCompare(t *testing.T) {
	set(t, docs, t.TempDir())
	file := filepath.Join(*docs, "transcript.md")
	testutil.WriteFile(t, file, []byte("with\n\nwithout\n"))
	found := folder(t.TempDir())
	if err := found.transcript(); err != nil {
		t.Error("nothing was found:", err)
	}
	testutil.WriteFile(t, filepath.Join(string(found), "6.12/integration_test/transcript"), []byte("with\n"))
	set(t, complete, true)
	if err := found.transcript(); err == nil {
		t.Error("half of it was found, in a run of everything, and there is no complaint")
	}
	testutil.WriteFile(t, filepath.Join(string(found), "no-tls/integration_test/transcript"), []byte("without\n"))
	if err := found.transcript(); err != nil {
		t.Error("the same was found:", err)
	}
	testutil.WriteFile(t, filepath.Join(string(found), "no-tls/integration_test/transcript"), []byte("another\n"))
	if err := found.transcript(); err == nil || !strings.Contains(err.Error(), "-without\n+another\n") {
		t.Errorf("another was found: %v", err)
	}
	set(t, write, true)
	if err := found.transcript(); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != "with\n\nanother\n" {
		t.Errorf("written: %q, %v", got, err)
	}
}

// rowsOf returns the rows of all tables, without their heads.
func rowsOf(page string) (rows []string) {
	for line := range strings.Lines(page) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "| ") && !strings.HasPrefix(line, "| Fault |") {
			rows = append(rows, line)
		}
	}
	return rows
}

// set sets a flag until the test ends.
func set[T any](t *testing.T, flag *T, value T) {
	t.Helper()
	old := *flag
	*flag = value
	t.Cleanup(func() { *flag = old })
}
