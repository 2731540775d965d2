package main

import (
	"errors"
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Parameters select what is measured: a field for each flag, and what the modes
// differ in. Guests are given them as JSON, and results have them.
type Parameters struct {
	Counted     bool     `json:"counted"`
	Kernels     []string `json:"kernels"`
	Workloads   []string `json:"workloads"`
	Servers     []string `json:"servers"`
	Protocols   []string `json:"protocols"`
	Sizes       []int64  `json:"sizes"`
	Connections []int    `json:"connections"`
	Ciphers     []string `json:"ciphers"`
	Repetitions int      `json:"repetitions"`
	// Connects is the number of connections of the workload connect.
	Connects int `json:"connects"`
	// Idle is the number of connections of the workload idle.
	Idle int `json:"idle"`
	// Slow is the number of connections of the workload slow, and SlowBytes how many
	// bytes each of them gets in a second.
	Slow      int   `json:"slow"`
	SlowBytes int64 `json:"slow_bytes"`
	// Seconds is how long a run in native mode is to take.
	Seconds float64 `json:"seconds"`
	// RunBytes is how many bytes of bodies a run in counted mode is to have.
	RunBytes int64 `json:"run_bytes"`
	// ProxySizes are the sizes of bodies of the workload proxy.
	ProxySizes []int64 `json:"proxy_sizes"`
	// MemoryBytes is the length of each body of the workloads memory and proxy-memory, see
	// memorySize. MemoryConnections are numbers of connections of the workload memory, and
	// MemoryRepetitions is how often each is measured.
	MemoryBytes       int64 `json:"memory_bytes"`
	MemoryConnections []int `json:"memory_connections"`
	MemoryRepetitions int   `json:"memory_repetitions"`
	// DiskFiles is how many files the workload disk downloads from a slow disk at once,
	// and DiskBytes the length of each.
	DiskFiles int   `json:"disk_files,omitempty"`
	DiskBytes int64 `json:"disk_bytes,omitempty"`
	// MaxBytes leaves out cases in which the bodies of one request on each of
	// several connections are more bytes together.
	MaxBytes int64 `json:"max_bytes"`
	// Networks are the conditions of the workloads over a network, all if it is empty.
	Networks []string `json:"networks,omitempty"`
	// Full measures everything on each kernel, not on the main one only.
	Full bool `json:"full"`
	// Timed boots machines with two CPUs and an ordinary clock.
	Timed bool `json:"timed,omitempty"`
}

var allKernels = []string{"6.1", "6.12", "7.2"}

// defaults are the parameters of a mode: native, counted, check or timed.
func defaults(mode string) Parameters {
	p := Parameters{
		Counted:     mode != "native",
		Workloads:   usualWorkloads,
		Servers:     allServers,
		Protocols:   allProtocols,
		Sizes:       []int64{1 << 10, 8 << 10, 64 << 10, switchSize, 1 << 20, 16 << 20, 1 << 30},
		Connections: []int{1, 16, 256},
		Ciphers:     allCiphers,
		Repetitions: 5,
		Connects:    128,
		Idle:        1000,
		Slow:        50,
		SlowBytes:   50_000,
		Seconds:     3,
		RunBytes:    16 << 20,
		MaxBytes:    16 << 30,
		ProxySizes:  []int64{1 << 20, 64 << 20},
	}
	if !p.Counted {
		p.Workloads = []string{connect, transfer, proxy, sequence, idle, syscalls}
		return p
	}
	p.Kernels = allKernels
	p.Sizes = p.Sizes[:6] // a GiB takes ten minutes, and costs what 16 MiB do
	p.Repetitions, p.Idle, p.MaxBytes = 3, 200, 64<<20
	p.MemoryBytes, p.MemoryConnections, p.MemoryRepetitions = 8<<20, []int{16, 256}, 2
	p.DiskFiles, p.DiskBytes = 500, 1<<20
	switch mode {
	case "timed": // only a workload with its servers in turn can stand it
		p.Timed, p.Kernels, p.Workloads, p.Servers = true, []string{"6.12"}, []string{sequence}, []string{stock, ktls}
	case "check": // in a few minutes
		p.Kernels = []string{"6.12"}
		p.Workloads = []string{connect, transfer, proxy, syscalls, memory}
		p.Servers = []string{stock, ktls}
		p.Sizes, p.ProxySizes = []int64{1 << 10, 1 << 20, 4 << 20}, []int64{4 << 20}
		p.Connections, p.Ciphers = []int{4}, p.Ciphers[:1]
		p.Connects, p.RunBytes, p.Repetitions = 64, 8<<20, 2
		p.MemoryBytes, p.MemoryConnections = 4<<20, []int{16}
	}
	return p
}

// register adds the flags that select what is measured.
func (p *Parameters) register(flags *flag.FlagSet) {
	known := p.Workloads
	if p.Counted {
		if !p.Timed {
			known = allWorkloads
		}
		listVar(flags, &p.Kernels, "kernels", "kernels to boot", oneOf(allKernels))
		sizeVar(flags, &p.RunBytes, "run-bytes", "`bytes` of bodies in a run")
		sizeVar(flags, &p.MemoryBytes, "memory-bytes", "`size` of each body of the workloads memory and proxy-memory")
		listVar(flags, &p.MemoryConnections, "memory-connections", "numbers of connections of the workload memory", parseCount)
		flags.IntVar(&p.MemoryRepetitions, "memory-repetitions", p.MemoryRepetitions, "how often the workloads memory and proxy-memory are measured")
		flags.IntVar(&p.DiskFiles, "disk-files", p.DiskFiles, "files of the workload disk")
		sizeVar(flags, &p.DiskBytes, "disk-bytes", "`size` of each file of the workload disk")
		flags.BoolVar(&p.Full, "full", false, "measure everything on each kernel")
	} else {
		flags.Float64Var(&p.Seconds, "seconds", p.Seconds, "how long a run is to take")
	}
	listVar(flags, &p.Workloads, "workloads", "what to measure", oneOf(known))
	listVar(flags, &p.Servers, "servers", "servers to compare", oneOf(allServers))
	listVar(flags, &p.Protocols, "protocols", "HTTP versions", oneOf(allProtocols))
	listVar(flags, &p.Ciphers, "ciphers", "ciphers; others than the first with 1 MiB bodies only", oneOf(allCiphers))
	listVar(flags, &p.Networks, "networks", "conditions of networks (default all)", oneOf(conditionNames()))
	listVar(flags, &p.Sizes, "sizes", "sizes of bodies", parseSize)
	listVar(flags, &p.ProxySizes, "proxy-sizes", "sizes of bodies of the workload proxy", parseSize)
	listVar(flags, &p.Connections, "connections", "numbers of connections", parseCount)
	flags.IntVar(&p.Repetitions, "repetitions", p.Repetitions, "how often each case is measured")
	flags.IntVar(&p.Idle, "idle", p.Idle, "connections of the workload idle")
	flags.IntVar(&p.Slow, "slow", p.Slow, "connections of the workload slow")
	sizeVar(flags, &p.SlowBytes, "slow-bytes", "`bytes` that each connection of the workload slow gets in a second")
	sizeVar(flags, &p.MaxBytes, "max-bytes", "leave out cases with several connections whose bodies are more `bytes` together")
}

// listVar adds a flag whose value is a list with commas, in which nothing is twice.
func listVar[T comparable](flags *flag.FlagSet, list *[]T, name, usage string, parse func(string) (T, error)) {
	var shown []string
	for _, v := range *list {
		shown = append(shown, show(v))
	}
	usage = fmt.Sprintf("%s, as a `list` (default %s)", usage, strings.Join(shown, ","))
	flags.Func(name, usage, func(s string) error {
		*list = nil
		for word := range strings.SplitSeq(s, ",") {
			v, err := parse(strings.TrimSpace(word))
			if err == nil && slices.Contains(*list, v) {
				err = fmt.Errorf("%q is given twice", word)
			}
			if err != nil {
				return err
			}
			*list = append(*list, v)
		}
		return nil
	})
}

// sizeVar adds a flag whose value is one size.
func sizeVar(flags *flag.FlagSet, n *int64, name, usage string) {
	flags.Func(name, fmt.Sprintf("%s (default %s)", usage, formatSize(*n)), func(s string) (err error) {
		*n, err = parseSize(s)
		return err
	})
}

// show writes a value as flags have it.
func show(v any) string {
	if size, ok := v.(int64); ok {
		return formatSize(size)
	}
	return fmt.Sprint(v)
}

// oneOf returns a parser of names out of known ones.
func oneOf(known []string) func(string) (string, error) {
	return func(s string) (string, error) {
		if !slices.Contains(known, s) {
			return "", fmt.Errorf("%q is none of %s", s, strings.Join(known, ", "))
		}
		return s, nil
	}
}

func parseCount(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > 10000 {
		return 0, fmt.Errorf("%q is not a number from 1 to 10000", s)
	}
	return n, nil
}

// validate finds what no flag can find by itself.
func (p *Parameters) validate() error {
	switch {
	case p.Repetitions < 1:
		return errors.New("-repetitions: at least 1 is needed")
	case p.Idle < 1 || p.Idle > 20000:
		return errors.New("-idle: a number from 1 to 20000 is needed")
	case p.Slow < 1 || p.Slow > 20000:
		return errors.New("-slow: a number from 1 to 20000 is needed")
	case !p.Counted && (p.Seconds <= 0 || p.Seconds > 600):
		return errors.New("-seconds: more than 0 and at most 600 are needed")
	}
	return nil
}
