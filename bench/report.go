package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// titles are the headings of the tables, by unit.
var titles = map[string]string{
	"instr/conn":        "Instructions of the server for a new connection with one request",
	"instr/req":         "Instructions of the server for a request",
	"instr/KiB":         "Instructions of the server per KiB of body",
	"request-us":        "Time of a request, median, in microseconds",
	"cpu-us/conn":       "CPU time of the server for a new connection with one request, in microseconds",
	"conn/s":            "New connections a second",
	"cpu-us/req":        "CPU time of the server for a request, in microseconds",
	"cpu-s/GiB":         "CPU time of the server per GiB of bodies, in seconds",
	"MiB/s":             "Throughput, in MiB/s",
	"req/s":             "Requests a second",
	"ttfb-p50-ms":       "Time to the first byte under load, median, in milliseconds",
	"ttfb-p99-ms":       "Time to the first byte under load, 99th percentile, in milliseconds",
	"rss-MiB":           "Resident memory of the server after the run, in MiB",
	"rss-B/conn":        "Resident memory of the server per idle connection, in bytes",
	"heap+stack-B/conn": "Go's heap and stacks in use per idle connection, in bytes",
	"border-B/B":        "Bytes copied by system calls per byte of body",
	"syscalls/MiB":      "System calls per MiB of body, but those of Go's scheduler",
	"traffic-B/B":       "Memory traffic of the whole machine per byte of body",
	"fills-B/B":         "Memory traffic: bytes read into the cache, per byte of body",
	"writebacks-B/B":    "Memory traffic: bytes written back from the cache, per byte of body",
	"guest-instr/KiB":   "Instructions of the whole machine per KiB of body",
}

// unitOrder is the order of the tables of a workload.
var unitOrder = []string{
	"instr/conn", "instr/req", "instr/KiB", "MiB/s", "req/s", "conn/s", "cpu-s/GiB", "cpu-us/req", "cpu-us/conn", "request-us",
	"ttfb-p50-ms", "ttfb-p99-ms", "rss-MiB", "heap+stack-B/conn", "rss-B/conn", "border-B/B", "syscalls/MiB",
	"traffic-B/B", "fills-B/B", "writebacks-B/B", "guest-instr/KiB",
}

const countedMeaning = `Counted in virtual machines, by emulation. A number of instructions is a number of instructions: of the server's processes, in user space and in the kernel on their behalf. It repeats within a few percent (Go's garbage collector is most of the rest), whatever else the machine does, and it can be compared between the servers in this report. It is no time: the emulated CPU waits for no memory, and has no instructions that encrypt more than one block at once (VAES), which the kernel, Go and OpenSSL use in different measure. The client and the server are on one CPU and talk over loopback, but for the memory traffic.
`

const timedMeaning = `Timed in virtual machines, by emulation, with two CPUs. The times contain the client and the emulator, and whatever else the machine did. They can be compared between the servers in this report, which took turns; they say nothing about a real machine.
`

const nativeMeaning = `Measured on the kernel of this machine. Clients and server share its CPUs and talk over loopback: throughput is that of both together, CPU time is the server's alone. The time to the first byte is that of one more client beside the load, from its request written to the first byte of the answer; it has the cipher that Go chooses.
`

// report returns the results as Markdown.
func report(r *Results) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Benchmark of caddy-ktls, %s\n\n", r.Mode)
	if r.Partial {
		b.WriteString("**This is a part: the run was not finished.**\n\n")
	}
	switch r.Mode {
	case "counted":
		b.WriteString(countedMeaning)
	case "timed":
		b.WriteString(timedMeaning)
	default:
		b.WriteString(nativeMeaning)
	}
	b.WriteString("\nThe cost of a transfer is without that of making its connections. Each connection has one request at a time. Tables have the median, in parentheses the least and the most of the repetitions, and behind × the ratio to `stock`, Caddy without the directive. bench/README.md says what each quantity is.\n")
	writeMachine(&b, r)
	if len(r.Notes) > 0 {
		b.WriteString("\n## Notes\n\n")
		for _, n := range r.Notes {
			fmt.Fprintf(&b, "- %s\n", strings.ReplaceAll(strings.TrimSpace(n), "\n", "\n  "))
		}
	}
	writeTables(&b, r)
	writeCalls(&b, r)
	return b.String()
}

func writeMachine(b *strings.Builder, r *Results) {
	m := r.Machine
	fmt.Fprintf(b, "\n## Machine\n\n| | |\n|---|---|\n")
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(b, "| %s | %s |\n", name, value)
		}
	}
	row("Started", r.Started.UTC().Format("2006-01-02 15:04 UTC"))
	row("CPU", m.CPU)
	row("CPU flags", strings.Join(m.Flags, " "))
	row("CPUs", fmt.Sprint(m.Cores))
	row("Memory", m.MemoryKB)
	if r.Mode != "native" {
		row("Kernel of the host", m.Kernel)
	}
	for _, k := range r.Kernels {
		row("Kernel "+k.Name, k.Release)
	}
	for _, name := range slices.Sorted(maps.Keys(m.Versions)) {
		row(name, m.Versions[name])
	}
}

// A table has a row for each case without its server.
type table struct {
	kernel, workload, unit string
	rows                   []Case
	servers                []string
}

// tables returns the tables in their order.
func (r *Results) tables() []table {
	var tables []table
	find := func(c Case, unit string) *table {
		for i := range tables {
			if t := &tables[i]; t.kernel == c.Kernel && t.workload == c.Workload && t.unit == unit {
				return t
			}
		}
		tables = append(tables, table{kernel: c.Kernel, workload: c.Workload, unit: unit})
		return &tables[len(tables)-1]
	}
	keys := slices.SortedFunc(maps.Keys(r.values()), func(a, b key) int {
		if a.Kernel == b.Kernel && a.Workload == b.Workload && a.unit != b.unit {
			return rank(unitOrder, a.unit) - rank(unitOrder, b.unit)
		}
		return compareCases(withoutCipher(a.Case), withoutCipher(b.Case))
	})
	for _, k := range keys {
		// Per KiB says little of bodies that have one or a few.
		if k.unit == "instr/KiB" && k.perRequest() {
			continue
		}
		t := find(k.Case, k.unit)
		row := k.Case
		row.Server = ""
		if row.Cipher == "" { // plain stands beside the first cipher
			row.Cipher = r.Parameters.Ciphers[0]
		}
		if !slices.Contains(t.rows, row) {
			t.rows = append(t.rows, row)
		}
		if !slices.Contains(t.servers, k.Server) {
			t.servers = append(t.servers, k.Server)
		}
	}
	for _, t := range tables {
		slices.SortFunc(t.rows, compareCases)
		slices.SortFunc(t.servers, func(a, b string) int { return rank(allServers, a) - rank(allServers, b) })
	}
	return tables
}

// withoutCipher has plain sort beside the first cipher.
func withoutCipher(c Case) Case {
	if c.Cipher == "" {
		c.Cipher = allCiphers[0]
	}
	return c
}

func writeTables(b *strings.Builder, r *Results) {
	summaries := r.summaries()
	kernel := ""
	for _, t := range r.tables() {
		if t.kernel != kernel {
			kernel = t.kernel
			fmt.Fprintf(b, "\n## Kernel %s\n", kernel)
		}
		title := titles[t.unit]
		if title == "" {
			title = t.unit
		}
		fmt.Fprintf(b, "\n### %s: %s\n\n| Protocol | Body | Connections | Cipher |", t.workload, title)
		for _, server := range t.servers {
			fmt.Fprintf(b, " %s |", server)
		}
		fmt.Fprintf(b, "\n|---|--:|--:|---|%s\n", strings.Repeat("--:|", len(t.servers)))
		for _, row := range t.rows {
			fmt.Fprintf(b, "| %s | %s | %d | %s |", protocolTitles[row.Protocol], formatSize(row.Size), row.Connections, row.Cipher)
			base := summaries[row.key(stock, t.unit)]
			for _, server := range t.servers {
				s := summaries[row.key(server, t.unit)]
				if server == plain && row.Cipher != r.Parameters.Ciphers[0] {
					s = summary{} // once is enough
				}
				fmt.Fprintf(b, " %s |", formatSummary(s, base, server == stock))
			}
			b.WriteByte('\n')
		}
	}
}

var protocolTitles = map[string]string{http1: "HTTP/1.1", http2: "HTTP/2"}

// key is the value of a row for a server.
func (c Case) key(server, unit string) key {
	c.Server = server
	if server == plain {
		c.Cipher = ""
	}
	return key{c, unit}
}

func formatSummary(s, base summary, isBase bool) string {
	if s.n == 0 {
		return ""
	}
	text := formatValue(s.median)
	if s.n > 1 {
		text += fmt.Sprintf(" (%s–%s)", formatValue(s.min), formatValue(s.max))
	}
	if base.median > 0 && !isBase {
		text += fmt.Sprintf(" ×%.2f", s.median/base.median)
	}
	return text
}

// writeCalls lists the most frequent system calls.
func writeCalls(b *strings.Builder, r *Results) {
	first := true
	for _, s := range r.Samples {
		if len(s.Calls) == 0 {
			continue
		}
		if first {
			b.WriteString("\n## System calls by name\n\n| Kernel | Protocol | Body | Server | Calls |\n|---|---|--:|---|---|\n")
			first = false
		}
		names := slices.SortedFunc(maps.Keys(s.Calls), func(a, b string) int {
			if s.Calls[a] != s.Calls[b] {
				return int(s.Calls[b] - s.Calls[a])
			}
			return strings.Compare(a, b)
		})
		var words []string
		for _, name := range names[:min(8, len(names))] {
			words = append(words, fmt.Sprintf("%d %s", s.Calls[name], name))
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s |\n", s.Kernel, protocolTitles[s.Protocol], formatSize(s.Size), s.Server, strings.Join(words, ", "))
	}
}
