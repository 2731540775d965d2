package benchmark

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
)

const notes = `Each number is the median of the rounds (least to greatest), "ktls to stock" that of
the ratios within a round. CPU time is the server's alone. Client and server share the
processors, so throughput is that of both together, and loopback has no network card.`

func (r *report) writeJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

func (r *report) writeText(w io.Writer) error {
	var text strings.Builder
	fmt.Fprintf(&text, "%s\n%s\n", r.what(), r.Machine.text())
	for _, p := range r.Protocols {
		if p.Rounds == 0 {
			continue
		}
		fmt.Fprintln(&text)
		table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
		for _, cells := range p.table() {
			fmt.Fprintln(table, strings.Join(cells, "\t"))
		}
		if err := table.Flush(); err != nil {
			return err
		}
	}
	fmt.Fprintf(&text, "\n%s\n\n%s\n", notes, r.Verdict)
	_, err := io.WriteString(w, text.String())
	return err
}

func (r *report) writeMarkdown(w io.Writer) error {
	var text strings.Builder
	fmt.Fprintf(&text, "**caddy ktls bench: %s**\n\n%s\n\n%s\n", r.Verdict, r.what(), r.Machine.text())
	for _, p := range r.Protocols {
		if p.Rounds == 0 {
			continue
		}
		fmt.Fprintln(&text)
		for i, cells := range p.table() {
			fmt.Fprintf(&text, "| %s |\n", strings.Join(cells, " | "))
			if i == 0 {
				fmt.Fprintln(&text, "|---|---|---|---|")
			}
		}
	}
	fmt.Fprintf(&text, "\n%s\n", notes)
	_, err := io.WriteString(w, text.String())
	return err
}

// what says what was measured.
func (r *report) what() string {
	file := "a file of " + humanize.IBytes(uint64(r.Size))
	if r.OwnFile {
		file = "a file of the user's, " + humanize.IBytes(uint64(r.Size))
	}
	connections := "connections"
	if r.Connections == 1 {
		connections = "connection"
	}
	what := fmt.Sprintf("%s, %d %s", file, r.Connections, connections)
	if r.TLS != "" {
		what += ", " + r.TLS
	}
	return what
}

func (m *machine) text() string {
	aes := strings.Join(m.AES, " ")
	return fmt.Sprintf("%s, %d processors (%s), features: %s; Linux %s; Caddy %s, %s, ktls %s; %s",
		cmp.Or(m.CPU, "a processor"), m.CPUs, m.Arch, cmp.Or(aes, "none for AES"), m.Kernel, m.Caddy, m.Go, m.Module, m.Date)
}

// table returns the lines of a table, the first of which has the titles.
func (p *protocolReport) table() [][]string {
	title := p.Protocol
	if p.Rounds != rounds {
		title = fmt.Sprintf("%s, %d of %d rounds", p.Protocol, p.Rounds, rounds)
	}
	lines := [][]string{{title, "stock", "ktls", "ktls to stock"}}
	for _, r := range p.Rows {
		if r.Stock.Most == 0 && r.KTLS.Most == 0 {
			continue // the kernel does not count it
		}
		ratio := ""
		if r.Ratio.Most > 0 {
			ratio = "×" + r.Ratio.text()
		}
		lines = append(lines, []string{r.Name + ", " + r.Unit, r.Stock.text(), r.KTLS.text(), ratio})
	}
	return lines
}

func (s spread) text() string {
	return fmt.Sprintf("%s (%s to %s)", significant(s.Median), significant(s.Least), significant(s.Most))
}

// significant writes a number with three digits, and all of an integer part.
func significant(x float64) string {
	digits := 0
	if x != 0 && !math.IsInf(x, 0) && !math.IsNaN(x) {
		digits = max(0, 2-int(math.Floor(math.Log10(math.Abs(x)))))
	}
	return fmt.Sprintf("%.*f", min(digits, 4), x)
}
