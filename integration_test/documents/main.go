// Documents writes docs/compatibility.md, docs/transcript.md and the tables of
// docs/testing.md from what tests have found in virtual machines, or fails if they say
// something else. integration_test/run calls it with the folder of the results, in which
// each kernel, and "no-tls", has a folder that vm/exec has filled. What was found on a
// kernel in another mode is in one more, such as "6.12-fips".
//
// After a run of some tests it looks only at documents for which there are results, and
// changes only the rows of docs/testing.md that these tests have told.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
)

var (
	docs     = flag.String("docs", "docs", "`folder` of the documents")
	write    = flag.Bool("write", false, "write the documents")
	complete = flag.Bool("complete", false, "all tests have run on all kernels")
)

func main() {
	flag.Parse()
	found := folder(flag.Arg(0))
	err := errors.Join(found.compatibility(), found.transcript(), found.testing())
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, err)
	if !*write {
		fmt.Fprintln(os.Stderr, "If that is as it should be: make docs writes the documents, in an hour. "+
			"WRITE=1 integration_test/run PACKAGE -run TEST writes what these tests find.")
	}
	os.Exit(1)
}

// A folder has the results of tests.
type folder string

// texts returns what the tests of all packages have left under that name on a kernel.
func (f folder) texts(kernel, name string) (string, error) {
	var all strings.Builder
	for _, folder := range []string{kernel, kernel + "-*"} {
		files, err := filepath.Glob(filepath.Join(string(f), folder, "*", name))
		if err != nil {
			return "", err
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				return "", err
			}
			all.Write(text)
		}
	}
	return all.String(), nil
}

// table returns the rows that the tests have found, and whether on all kernels.
func (f folder) table(name string) (t table, onAll bool, err error) {
	onAll = true
	for _, kernel := range kernels {
		text, err := f.texts(kernel, name)
		if err != nil {
			return nil, false, err
		}
		onAll = onAll && text != ""
		for line := range strings.Lines(text) {
			cells := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
			last := len(cells) - 1
			if err := t.add(cells[:last], kernel, cells[last]); err != nil {
				return nil, false, err
			}
		}
	}
	return t, onAll, nil
}

func (f folder) compatibility() error {
	rows, onAll, err := f.table(results.Compatibility)
	if err != nil {
		return err
	}
	text, _, err := readPage("compatibility.md")
	if err != nil {
		return err
	}
	return writeOrCompare("compatibility.md", onAll,
		text+"\n"+rows.joined().markdown("TLS", "Cipher suite", "Server's key", "Connections", "Result"))
}

// transcript is the part with kernel TLS, and the part without.
func (f folder) transcript() error {
	with, err := f.texts("6.12", results.Transcript)
	if err != nil {
		return err
	}
	without, err := f.texts("no-tls", results.Transcript)
	if err != nil {
		return err
	}
	return writeOrCompare("transcript.md", with != "" && without != "", with+"\n"+without)
}

// mark ends what is written by hand in a document. The tables follow.
const mark = "<!-- make docs writes what follows -->\n"

// readPage returns what is written by hand, with the mark, and what follows.
func readPage(name string) (text, tables string, err error) {
	page, err := os.ReadFile(filepath.Join(*docs, name))
	if err != nil {
		return "", "", err
	}
	text, tables, ok := strings.Cut(string(page), mark)
	if !ok {
		return "", "", fmt.Errorf("docs/%s has no line %s", name, mark)
	}
	return text + mark, tables, nil
}

// writeOrCompare does so with a document, if all of it was found.
func writeOrCompare(name string, found bool, text string) error {
	file := filepath.Join(*docs, name)
	switch {
	case !found && *complete:
		return fmt.Errorf("docs/%s: the tests have left nothing, or not on all kernels", name)
	case !found:
		return nil
	case *write:
		return os.WriteFile(file, []byte(text), 0o644)
	}
	diff := exec.Command("diff", "-u", "--label", "docs/"+name, "--label", "what the tests have found", file, "-")
	diff.Stdin = strings.NewReader(text)
	difference, err := diff.CombinedOutput()
	if err != nil {
		return fmt.Errorf("docs/%s is not what the tests have found:\n%s", name, difference)
	}
	return nil
}
