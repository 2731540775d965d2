package main

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A unit is a quantity: its name in results.json, and its title in reports.
type unit struct{ name, title string }

// units are what is measured, in the order of the tables of a workload.
var units = []unit{
	{"instr/conn", "Instructions of the server for a new connection with one request"},
	{"instr/req", "Instructions of the server for a request"},
	{"instr/KiB", "Instructions of the server per KiB of body"},
	{"alloc-B/conn", "Bytes of Go's heap that a new connection with one request allocates"},
	{"alloc-B/req", "Bytes of Go's heap that a request allocates, without the connections"},
	{"MiB/s", "Throughput, in MiB/s"},
	{"req/s", "Requests a second"},
	{"conn/s", "New connections a second"},
	{"cpu-s/GiB", "CPU time of the server per GiB of bodies, in seconds"},
	{"cpu-us/req", "CPU time of the server for a request, in microseconds"},
	{"cpu-us/conn", "CPU time of the server for a new connection with one request, in microseconds"},
	{"request-us", "Time of a request, median, in microseconds"},
	{"whole-ms", "Time of a body over a network, to the last byte, in milliseconds"},
	{"first-ms", "Time to the first byte of a body over a network, in milliseconds"},
	{"p50-ms", "Time of a request over a network, median, in milliseconds"},
	{"p99-ms", "Time of a request over a network, 99th percentile, in milliseconds"},
	{"p100-ms", "Time of a request over a network, the longest, in milliseconds"},
	{"late", "Requests over a network that took 35 ms more than the median"},
	{"ttfb-p50-ms", "Time to the first byte under load, median, in milliseconds"},
	{"ttfb-p99-ms", "Time to the first byte under load, 99th percentile, in milliseconds"},
	{"rss-MiB", "Resident memory of the server after the run, in MiB"},
	{"heap+stack-B/conn", "Objects in Go's heap, and stacks, per connection, in bytes"},
	{"socket-B/conn", "Kernel memory of the sockets per connection, in bytes"},
	{"rss-B/conn", "Resident memory of the server per connection, in bytes"},
	{"cold-MiB/s", "Throughput of the files that come from the slow disk, together, in MiB/s"},
	{"hot-MiB/s", "Throughput of a download of the hot file beside them, in MiB/s"},
	{"alone-MiB/s", "Throughput of a download of the hot file before, in MiB/s"},
	{"hot-ttfb-p50-ms", "Time to the first byte of the hot file beside them, median, in milliseconds"},
	{"alone-ttfb-p50-ms", "Time to the first byte of the hot file before, median, in milliseconds"},
	{"hot-ttfb-p99-ms", "Time to the first byte of the hot file beside them, 99th percentile, in milliseconds"},
	{"alone-ttfb-p99-ms", "Time to the first byte of the hot file before, 99th percentile, in milliseconds"},
	{"hot-p50-ms", "Time of a download of the hot file beside them, median, in milliseconds"},
	{"alone-p50-ms", "Time of a download of the hot file before, median, in milliseconds"},
	{"hot-p99-ms", "Time of a download of the hot file beside them, 99th percentile, in milliseconds"},
	{"alone-p99-ms", "Time of a download of the hot file before, 99th percentile, in milliseconds"},
	{"threads", "Most threads of the server"},
	{"peak-rss-MiB", "Most resident memory of the server, in MiB"},
	{"border-B/B", "Bytes copied by system calls per byte of body"},
	{"syscalls/MiB", "System calls per MiB of body, but those of Go's scheduler"},
	{"traffic-B/B", "Memory traffic of the whole machine per byte of body"},
	{"traffic-spared-B/B", "The same, if no line is read into the cache that is then overwritten as a whole, before it is read"},
	{"fills-B/B", "Memory traffic: bytes read into the cache, per byte of body"},
	{"writebacks-B/B", "Memory traffic: bytes written back from the cache, per byte of body"},
}

var protocolTitles = map[string]string{http1: "HTTP/1.1", http2: "HTTP/2"}

// meanings say what the numbers of a mode are.
var meanings = map[string]string{
	"native":  "Measured on the kernel of this machine. Clients and server share its CPUs and talk over loopback: throughput is that of both together, CPU time is the server's alone. The time to the first byte is that of one more client beside the load, from its request written to the first byte of the answer; it has the cipher that Go chooses.",
	"counted": "Counted in virtual machines, by emulation. A number of instructions is a number of instructions: of the server's processes, in user space and in the kernel on their behalf. Until the machine boots anew it mostly repeats within 1 %, whatever else its host does, because Go collects its garbage between runs. It can be compared between the servers in this report. It is no time: the emulated CPU waits for no memory, and has no instructions that encrypt more than one block at once (VAES), which the kernel, Go and OpenSSL use in different measure. The client and the server are on one CPU and talk over loopback, but for the memory traffic.",
	"timed":   "Timed in virtual machines, by emulation, with two CPUs. The times contain the client and the emulator, and whatever else the machine did. They can be compared between the servers in this report, which took turns; they say nothing about a real machine.",
}

// report writes the results as Markdown.
func (r *Results) report(b *bytes.Buffer) error {
	fmt.Fprintf(b, "# Benchmark of caddy-ktls, %s\n\n", r.Mode)
	if r.Partial {
		b.WriteString("**This is a part: the run was not finished.**\n\n")
	}
	b.WriteString(meanings[r.Mode])
	b.WriteString("\n\nThe cost of a transfer is without that of making its connections. Each connection has one request at a time. Tables have the median. In parentheses is the interval that has it with a confidence of 95 %, or from the least to the most if fewer than six repetitions allow no such interval. Behind × is the ratio to `stock`, Caddy without the directive. bench/README.md says what each quantity is.\n")
	r.writeMachine(b)
	if len(r.Notes) > 0 {
		b.WriteString("\n## Notes\n\n")
		for _, n := range r.Notes {
			fmt.Fprintf(b, "- %s\n", strings.ReplaceAll(strings.TrimSpace(n), "\n", "\n  "))
		}
	}
	r.writeTables(b)
	return nil
}

func (r *Results) writeMachine(b *bytes.Buffer) {
	m := r.Machine
	rows := [][2]string{
		{"Started", r.Started.UTC().Format("2006-01-02 15:04 UTC")},
		{"CPU", m.CPU}, {"CPU flags", strings.Join(m.Flags, " ")}, {"CPUs", fmt.Sprint(m.Cores)}, {"Memory", m.MemoryKB},
	}
	if r.Mode != "native" {
		rows = append(rows, [2]string{"Kernel of the host", m.Kernel})
	}
	for _, k := range r.Kernels {
		rows = append(rows, [2]string{"Kernel " + k.Name, k.Release})
	}
	for _, name := range slices.Sorted(maps.Keys(m.Versions)) {
		rows = append(rows, [2]string{name, m.Versions[name]})
	}
	fmt.Fprintf(b, "\n## Machine\n\n| | |\n|---|---|\n")
	for _, row := range rows {
		fmt.Fprintf(b, "| %s | %s |\n", row[0], row[1])
	}
}
