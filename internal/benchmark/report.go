package benchmark

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A report is what was measured, and what it means.
type report struct {
	Machine     machine           `json:"machine"`
	Size        int64             `json:"size"` // of the file, in bytes
	OwnFile     bool              `json:"own_file"`
	Connections int               `json:"connections"`
	TLS         string            `json:"tls"` // version and cipher
	Protocols   []*protocolReport `json:"protocols"`
	Verdict     string            `json:"verdict"`
}

// A protocolReport has what was measured over one protocol.
type protocolReport struct {
	Protocol string  `json:"protocol"`
	Rounds   int     `json:"rounds"` // that are complete
	Rows     []row   `json:"rows"`
	outcome  outcome // what the rounds say
	saved    float64 // CPU time, as a part of stock's, in the median of the rounds
	slower   float64 // throughput that is lost in each round, as such a part; 0 if not
	// measured has the values of each round, in the order of values: stock, ktls.
	measured [][][2]float64
}

// A row compares the sides in one respect.
type row struct {
	Name  string `json:"name"`
	Unit  string `json:"unit"`
	Stock spread `json:"stock"`
	KTLS  spread `json:"ktls"`
	// Ratio is that of ktls to stock in each round. It is zero if stock has a zero.
	Ratio spread `json:"ratio"`
}

// A spread is the median of the rounds, with the least and the greatest.
type spread struct {
	Median float64 `json:"median"`
	Least  float64 `json:"least"`
	Most   float64 `json:"most"`
}

// spreadOf returns the spread of values, of which there is one at least.
func spreadOf(values []float64) spread {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return spread{(sorted[(n-1)/2] + sorted[n/2]) / 2, sorted[0], sorted[n-1]}
}

const (
	mebi = 1 << 20
	gibi = 1 << 30
)

// The rows that decide on the verdict.
const (
	rowCPU        = 0
	rowThroughput = 3
)

// The values of a turn that are compared.
var values = []struct {
	name, unit string
	of         func(turn) float64
}{
	rowCPU:        {"CPU time of the server", "s/GiB", func(t turn) float64 { return perByte(t.used.User+t.used.Kernel, t) }},
	1:             {"CPU time in user space", "s/GiB", func(t turn) float64 { return perByte(t.used.User, t) }},
	2:             {"CPU time in the kernel", "s/GiB", func(t turn) float64 { return perByte(t.used.Kernel, t) }},
	rowThroughput: {"throughput", "MiB/s", func(t turn) float64 { return float64(t.got.Bytes) / mebi / t.got.Time.Seconds() }},
	4:             {"reads, writes and sends", "per MiB", func(t turn) float64 { return float64(t.used.Calls) * mebi / float64(t.got.Bytes) }},
	5:             {"first byte, median", "ms", func(t turn) float64 { return percentile(t.got.FirstBytes, 50) }},
	6:             {"first byte, 99th percentile", "ms", func(t turn) float64 { return percentile(t.got.FirstBytes, 99) }},
}

// perByte returns seconds for a GiB of bodies.
func perByte(d time.Duration, t turn) float64 { return d.Seconds() * gibi / float64(t.got.Bytes) }

// percentile returns the value in milliseconds that so many percent do not exceed.
func percentile(times []time.Duration, percent int) float64 {
	sorted := slices.Sorted(slices.Values(times))
	i := max(0, (len(sorted)*percent+99)/100-1)
	return float64(sorted[i]) / float64(time.Millisecond)
}

func newReport(o *options) *report {
	return &report{Machine: thisMachine(), Size: o.size, OwnFile: o.file != "", Connections: o.connections, Protocols: []*protocolReport{}}
}

func (r *report) protocol(name string) *protocolReport {
	p := &protocolReport{Protocol: name, Rows: []row{}}
	r.Protocols = append(r.Protocols, p)
	return p
}

// add adds a round.
func (p *protocolReport) add(stock, ktls turn) {
	var round [][2]float64
	for _, v := range values {
		round = append(round, [2]float64{v.of(stock), v.of(ktls)})
	}
	p.measured = append(p.measured, round)
	p.Rounds = len(p.measured)
}

// evaluate makes the rows of what was measured, and decides on the outcome.
func (p *protocolReport) evaluate() {
	if p.Rounds == 0 {
		return
	}
	for i, v := range values {
		var sides [2][]float64
		var ratios []float64
		for _, round := range p.measured {
			sides[0], sides[1] = append(sides[0], round[i][0]), append(sides[1], round[i][1])
			if round[i][0] != 0 {
				ratios = append(ratios, round[i][1]/round[i][0])
			}
		}
		r := row{Name: v.name, Unit: v.unit, Stock: spreadOf(sides[0]), KTLS: spreadOf(sides[1])}
		if len(ratios) == p.Rounds {
			r.Ratio = spreadOf(ratios)
		}
		p.Rows = append(p.Rows, r)
	}
	p.judge(p.Rows[rowCPU].Ratio, p.Rows[rowThroughput].Ratio)
}

// An outcome is what the rounds say of a protocol.
type outcome int

const (
	unknown      outcome = iota // too few rounds
	pays                        // each round took less CPU time
	noDifference                // some took less, some more
	costs                       // each round took more CPU time
)

// least is what a verdict needs at least: a part of the CPU time of stock.
const least = 0.01

// judge decides by the ratios of CPU time and of throughput. Five rounds that agree by
// chance are one case of 16.
func (p *protocolReport) judge(cpu, throughput spread) {
	p.saved, p.slower = 1-cpu.Median, 0
	switch {
	case p.Rounds < rounds:
		p.outcome = unknown
	case cpu.Most < 1 && p.saved >= least:
		p.outcome = pays
	case cpu.Least > 1 && p.saved <= -least:
		p.outcome = costs
	default:
		p.outcome = noDifference
	}
	if throughput.Most < 1-least {
		p.slower = 1 - throughput.Median
	}
}

// judge evaluates what was measured, once, and writes the verdict on all protocols.
func (r *report) judge() {
	for _, p := range r.Protocols {
		p.evaluate()
	}
	var parts []string
	say := func(o outcome, text string) {
		var names []string
		alike := true // the protocols need not be named
		for _, p := range slices.Backward(r.Protocols) {
			if p.outcome != o {
				alike = false
				continue
			}
			name := "over " + p.Protocol
			if o == pays {
				name = percent(p.saved) + " less CPU time " + name
			}
			if p.slower > 0 && o != unknown {
				name += " (with " + percent(p.slower) + " less throughput)"
			}
			names = append(names, name)
			alike = alike && o != pays && p.slower == 0
		}
		switch {
		case o == pays && len(names) > 0:
			text += ": " + strings.Join(names, ", ")
		case len(names) > 0 && !alike:
			text += " " + strings.Join(names, " and ")
		}
		if len(names) > 0 {
			parts = append(parts, text)
		}
	}
	say(pays, "pays here")
	say(noDifference, "makes no difference here (within the spread)")
	say(costs, "does not pay here")
	say(unknown, "too few rounds for a verdict")
	if len(parts) == 0 {
		parts = append(parts, "too few rounds for a verdict")
	}
	r.Verdict = strings.Join(parts, "; ")
	if r.Verdict == "does not pay here" {
		r.Verdict += ": leave it out"
	}
}

func percent(part float64) string { return fmt.Sprintf("%.0f %%", 100*part) }
