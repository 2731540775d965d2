package main

import (
	"flag"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestFlags(t *testing.T) {
	for _, test := range []struct{ name, arguments, wrong string }{
		{"good", "-sizes 1KiB,1MiB -connections 1,16 -servers stock,ktls -kernels 7.2 -repetitions 2", ""},
		{"size", "-sizes 1kb", "is not a size"},
		{"connections", "-connections 0", "is not a number from 1 to 10000"},
		{"server", "-servers apache", "none of plain, stock"},
		{"kernel", "-kernels 5.4", "none of 6.1, 6.12, 7.2"},
		{"twice", "-servers ktls,ktls", "given twice"},
		{"repetitions", "-repetitions 0", "at least 1"},
		{"flag", "-size 1KiB", "not defined"},
	} {
		p := defaults("counted")
		flags := flag.NewFlagSet("", flag.ContinueOnError)
		flags.SetOutput(io.Discard)
		p.register(flags)
		err := flags.Parse(strings.Fields(test.arguments))
		if err == nil {
			err = p.validate()
		}
		if test.wrong == "" && err != nil || test.wrong != "" && (err == nil || !strings.Contains(err.Error(), test.wrong)) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// What the servers are compared in has to be the same for all, a connection's
// cost has to be known before a transfer's, and each connection of a run makes
// as many requests.
func TestSteps(t *testing.T) {
	p := defaults("counted")
	for _, kernel := range p.Kernels {
		b, known, cell := bench{job: job{Parameters: p}}, map[Case]bool{}, Case{Workload: transfer, Size: switchSize}
		order := map[int][]string{}
		for _, s := range (job{Parameters: p, Kernel: kernel}).steps() {
			if s.Workload == connect {
				known[s.Case] = true
			}
			if (s.Workload == transfer || s.Workload == proxy) && !s.floor() && !known[b.connectKey(s.Case)] {
				t.Errorf("%s: the cost of a connection is not known", s.Case)
			}
			if s.requests%s.Connections != 0 || s.Workload == transfer && s.perRequest() && s.requests <= s.Connections {
				t.Errorf("%s: %d requests", s.Case, s.requests)
			}
			if s.Workload == transfer && s.Size == switchSize && s.Connections == 16 && s.Protocol == http1 {
				order[s.repetition] = append(order[s.repetition], s.Server)
			}
		}
		for repetition := 1; repetition <= p.Repetitions; repetition++ {
			if n := len(order[repetition]); n != len(p.serversOf(cell)) {
				t.Errorf("%d servers in repetition %d", n, repetition)
			} else if first := order[repetition][0]; first != p.serversOf(cell)[repetition-1] {
				t.Errorf("repetition %d begins with %s", repetition, first)
			}
		}
	}
}

// The server ktls-all takes part where bodies are proxied, and where the cost
// of its connections is needed for that. The server plain is the backend then.
func TestServers(t *testing.T) {
	all := []string{connect, transfer, proxy, sequence, idle, syscalls, memory, proxyMemory}
	for _, test := range []struct {
		name      string
		workloads []string
		c         Case
		want      string
	}{
		{"transfer", all, Case{Workload: transfer}, "stock ktls"},
		{"transfer, floors", all, Case{Workload: transfer, Size: switchSize}, "stock ktls floor floor-write"},
		{"sequence", all, Case{Workload: sequence}, "stock ktls"},
		{"memory", all, Case{Workload: memory}, "stock ktls"},
		{"proxy", all, Case{Workload: proxy}, "stock ktls ktls-all"},
		{"proxy-memory", all, Case{Workload: proxyMemory}, "stock ktls-all"},
		{"connect", all, Case{Workload: connect, Size: connectSize}, "stock ktls ktls-all"},
		{"connect and move", all, Case{Workload: connect, Size: switchSize}, "stock ktls"},
		{"connect without proxy", []string{connect, proxyMemory}, Case{Workload: connect, Size: connectSize}, "stock ktls"},
	} {
		p := Parameters{Workloads: test.workloads, Servers: []string{stock, ktls, ktlsAll, floorSendfile, floorWrite}}
		if got := strings.Join(p.serversOf(test.c), " "); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
	for _, test := range []struct{ name, workload, want string }{
		{"proxied", proxy, "plain stock ktls-all"},
		{"proxied, memory", proxyMemory, "plain stock ktls-all"},
		{"files", transfer, "stock"},
	} {
		p := Parameters{Workloads: []string{test.workload}, Servers: []string{stock, ktlsAll}}
		started := slices.DeleteFunc(slices.Clone(allServers), func(s string) bool { return !p.starts(s) })
		if got := strings.Join(started, " "); got != test.want {
			t.Errorf("%s: %s run, want %s", test.name, got, test.want)
		}
	}
}

// A proxied body comes from a site of its own.
func TestProxied(t *testing.T) {
	s := &server{name: ktlsAll, port: 1, admin: 2, backend: 3, proxy: 4}
	for workload, want := range map[string]string{
		transfer: "https://localhost:1/1MiB", proxy: "https://localhost:4/1MiB", proxyMemory: "https://localhost:4/1MiB",
	} {
		if got := s.url(Case{Workload: workload, Protocol: http2, Size: 1 << 20}); got != want {
			t.Errorf("%s: %s, want %s", workload, got, want)
		}
	}
	const route = "reverse_proxy 127.0.0.1:3"
	if c := s.config(site{"/"}, "/"); !strings.Contains(c, route) || strings.Count(c, "offload all") != 3 {
		t.Error(c)
	}
	s.name, s.backend = stock, 0
	if c := s.config(site{"/"}, "/"); strings.Contains(c, "reverse_proxy") || strings.Contains(c, "ktls") {
		t.Error(c)
	}
}

// The workload sequence is measured once, and in timed mode nothing else is.
func TestTimed(t *testing.T) {
	p := defaults("timed")
	want := len(allProtocols) * len(sequenceSizes) * len(p.Servers)
	jobs := p.jobs()
	if len(jobs) != 1 || jobs[0].Serve {
		t.Fatalf("%d jobs", len(jobs))
	}
	steps := jobs[0].steps()
	if len(steps) != want {
		t.Errorf("%d steps, want %d", len(steps), want)
	}
	for _, s := range steps {
		if s.Workload != sequence || s.requests != sequenceRounds || s.Connections != 1 {
			t.Errorf("%s: %d requests", s.Case, s.requests)
		}
	}
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	p.register(flags)
	if err := flags.Parse([]string{"-workloads", transfer}); err == nil {
		t.Error("no error for another workload")
	}
}

// Networks have machines of their own, and only if they are asked for.
func TestNetworks(t *testing.T) {
	p := defaults("counted")
	for _, j := range p.jobs() {
		if j.Network {
			t.Error("networks are measured by default")
		}
	}
	p.Kernels, p.Workloads, p.Networks = []string{"7.2"}, networkWorkloads, []string{"loss", "20ms", "256kbit"}
	jobs := p.jobs()
	if len(jobs) != 1 || !jobs[0].Network {
		t.Fatalf("%d jobs", len(jobs))
	}
	got := map[string]int{}
	for _, s := range jobs[0].steps() {
		if conditionOf(s.Network).name == "" {
			t.Errorf("%s: no such condition", s.Case)
		}
		if s.Protocol == http2 {
			got[s.Workload+" "+s.Network+" "+s.Server]++
		}
	}
	want := map[string]int{}
	for _, server := range []string{stock, ktls} {
		want[afterIdle+" 256kbit "+server] = p.Repetitions
		want[keepAlive+" 20ms "+server] = 1
		want[network+" loss "+server] = 4 * p.Repetitions
	}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// The defaults are to take less than an hour and a half, and the check a few minutes.
func TestEstimates(t *testing.T) {
	hour := func(p Parameters) (seconds float64) {
		for _, j := range p.jobs() {
			seconds += total(j.steps())
		}
		return seconds
	}
	t.Logf("%.0f min", hour(defaults("counted"))/60)
	t.Logf("%.0f s", hour(defaults("check")))
	if seconds := hour(defaults("counted")); seconds > 90*60 {
		t.Errorf("%.0f minutes", seconds/60)
	}
	if seconds := hour(defaults("check")); seconds > 5*60 {
		t.Errorf("check: %.0f s", seconds)
	}
}

func TestProgress(t *testing.T) {
	var b strings.Builder
	p := newProgress(&b, 2, 200)
	p.start = time.Now().Add(-100 * time.Second)
	p.step(step{Case: Case{Kernel: "6.12", Server: ktls}, estimate: 100}, &Sample{Values: map[string]float64{"instr/KiB": 1234}})
	if s := b.String(); !strings.Contains(s, "2 measurements, about 3m20s") || !strings.Contains(s, "[1/2, 1m40s left]") || !strings.Contains(s, "1.234k instr/KiB") {
		t.Error(s)
	}
}
