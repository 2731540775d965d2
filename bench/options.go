package main

import (
	"errors"
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Parameters select what is measured. The guest of a counted run is given them
// as JSON.
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
	// Connects is the number of connections of the workload connect: enough for
	// Go's garbage collector to run several times.
	Connects int `json:"connects"`
	// Idle is the number of connections of the workload idle.
	Idle int `json:"idle"`
	// Seconds is how long a run in native mode is to take.
	Seconds float64 `json:"seconds"`
	// RunBytes is how many bytes of bodies a run in counted mode is to have.
	RunBytes int64 `json:"run_bytes"`
	// ProxySizes are the sizes of bodies of the workload proxy.
	ProxySizes []int64 `json:"proxy_sizes"`
	// MemoryBytes is the length of each body of the workloads memory and
	// proxy-memory, and MemoryRepetitions how often they are measured.
	MemoryBytes       int64 `json:"memory_bytes"`
	MemoryRepetitions int   `json:"memory_repetitions"`
	// MaxBytes leaves out cases in which the bodies of one request on each of
	// several connections are more bytes together.
	MaxBytes int64 `json:"max_bytes"`
	// Full measures everything on each kernel, not on the main one only.
	Full bool `json:"full"`
	// Timed boots machines with two CPUs and an ordinary clock.
	Timed bool `json:"timed,omitempty"`
}

var allKernels = []string{"6.1", "6.12", "7.2"}

func defaultParameters(counted bool) Parameters {
	p := Parameters{
		Counted:     counted,
		Workloads:   slices.Clone(allWorkloads),
		Servers:     slices.Clone(allServers),
		Protocols:   slices.Clone(allProtocols),
		Sizes:       []int64{1 << 10, 8 << 10, 64 << 10, switchSize, 1 << 20, 16 << 20, 1 << 30},
		Connections: []int{1, 16, 256},
		Ciphers:     slices.Clone(allCiphers),
		Repetitions: 5,
		Connects:    128,
		Idle:        1000,
		Seconds:     3,
		RunBytes:    16 << 20,
		MaxBytes:    16 << 30,
		ProxySizes:  []int64{1 << 20, 64 << 20},
	}
	if counted {
		p.Kernels = slices.Clone(allKernels)
		p.Repetitions, p.Idle, p.MaxBytes = 3, 200, 64<<20
		p.MemoryBytes, p.MemoryRepetitions = 8<<20, 2
	} else {
		p.Workloads = []string{connect, transfer, proxy, sequence, idle, syscalls}
	}
	return p
}

// timedParameters are those of a run that takes times in virtual machines, which
// only a workload with its servers in turn can stand.
func timedParameters() Parameters {
	p := defaultParameters(true)
	p.Timed, p.Kernels, p.Workloads, p.Servers = true, []string{"6.12"}, []string{sequence}, []string{stock, ktls}
	return p
}

// A listFlag is a flag whose value is a list with commas.
type listFlag[T any] struct {
	list  *[]T
	parse func(string) (T, error)
	show  func(T) string
}

func (f listFlag[T]) String() string {
	if f.list == nil {
		return ""
	}
	words := make([]string, len(*f.list))
	for i, v := range *f.list {
		words[i] = f.show(v)
	}
	return strings.Join(words, ",")
}

func (f listFlag[T]) Set(s string) error {
	var list []T
	for word := range strings.SplitSeq(s, ",") {
		v, err := f.parse(strings.TrimSpace(word))
		if err != nil {
			return err
		}
		list = append(list, v)
	}
	*f.list = list
	return nil
}

// oneOf is a list of names out of known ones.
func oneOf(list *[]string, known []string) listFlag[string] {
	return listFlag[string]{list, func(s string) (string, error) {
		if !slices.Contains(known, s) {
			return "", fmt.Errorf("%q is none of %s", s, strings.Join(known, ", "))
		}
		return s, nil
	}, func(s string) string { return s }}
}

// register adds the flags that select what is measured.
func (p *Parameters) register(flags *flag.FlagSet) {
	known := allWorkloads
	if p.Timed {
		known = p.Workloads
	}
	if p.Counted {
		flags.Var(oneOf(&p.Kernels, allKernels), "kernels", "kernels to boot")
		flags.Var(sizeFlag(&p.RunBytes), "run-bytes", "bytes of bodies in a run")
		flags.Var(sizeFlag(&p.MemoryBytes), "memory-bytes", "size of each body of the workloads memory and proxy-memory")
		flags.IntVar(&p.MemoryRepetitions, "memory-repetitions", p.MemoryRepetitions, "how often the workloads memory and proxy-memory are measured")
		flags.BoolVar(&p.Full, "full", false, "measure everything on each kernel")
	} else {
		known = p.Workloads
		flags.Float64Var(&p.Seconds, "seconds", p.Seconds, "how long a run is to take")
	}
	flags.Var(oneOf(&p.Workloads, known), "workloads", "what to measure")
	flags.Var(oneOf(&p.Servers, allServers), "servers", "servers to compare")
	flags.Var(oneOf(&p.Protocols, allProtocols), "protocols", "HTTP versions")
	flags.Var(oneOf(&p.Ciphers, allCiphers), "ciphers", "ciphers; others than the first with 1 MiB bodies only")
	flags.Var(listFlag[int64]{&p.Sizes, parseSize, formatSize}, "sizes", "sizes of bodies")
	flags.Var(listFlag[int64]{&p.ProxySizes, parseSize, formatSize}, "proxy-sizes", "sizes of bodies of the workload proxy")
	flags.Var(listFlag[int]{&p.Connections, parseCount, strconv.Itoa}, "connections", "numbers of connections")
	flags.IntVar(&p.Repetitions, "repetitions", p.Repetitions, "how often each case is measured")
	flags.IntVar(&p.Idle, "idle", p.Idle, "connections of the workload idle")
	flags.Var(sizeFlag(&p.MaxBytes), "max-bytes",
		"leave out cases with several connections whose bodies are more together")
}

func parseCount(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > 10000 {
		return 0, fmt.Errorf("%q is not a number from 1 to 10000", s)
	}
	return n, nil
}

// A sizeValue is a flag whose value is one size.
type sizeValue struct{ n *int64 }

func sizeFlag(n *int64) sizeValue { return sizeValue{n} }

func (f sizeValue) String() string {
	if f.n == nil {
		return ""
	}
	return formatSize(*f.n)
}

func (f sizeValue) Set(s string) (err error) {
	*f.n, err = parseSize(s)
	return err
}

// validate finds what no flag can find by itself.
func (p *Parameters) validate() error {
	switch {
	case p.Repetitions < 1:
		return errors.New("-repetitions: at least 1 is needed")
	case p.Idle < 1 || p.Idle > 20000:
		return errors.New("-idle: a number from 1 to 20000 is needed")
	case !p.Counted && (p.Seconds <= 0 || p.Seconds > 600):
		return errors.New("-seconds: more than 0 and at most 600 are needed")
	}
	for _, list := range [][]string{p.Kernels, p.Workloads, p.Servers, p.Protocols, p.Ciphers} {
		if name, ok := twice(list); ok {
			return fmt.Errorf("%q is given twice", name)
		}
	}
	return nil
}

func twice(list []string) (string, bool) {
	for i, s := range list {
		if slices.Contains(list[:i], s) {
			return s, true
		}
	}
	return "", false
}
