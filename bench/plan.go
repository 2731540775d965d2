package main

import (
	"slices"
)

// A step is one sample to take.
type step struct {
	Case
	repetition int
	// requests to make in counted mode; in native mode speed decides.
	requests int
	// estimate is how many seconds it may take, before anything is known of the
	// machine: progress corrects it.
	estimate float64
}

// connectSize is the length of the bodies of the workload connect, in bytes. The
// module leaves such a connection as it is; with switchSize it moves it.
const connectSize = 1 << 10

// mainKernel is the one on which everything is measured.
func (p *Parameters) mainKernel() string {
	if slices.Contains(p.Kernels, "6.12") || len(p.Kernels) == 0 {
		return "6.12"
	}
	return p.Kernels[0]
}

// reduced says that only a selection is measured on this kernel.
func (p *Parameters) reduced(kernel string) bool {
	return p.Counted && !p.Full && kernel != p.mainKernel()
}

// wants says whether a case of the transfer workload is measured on a kernel.
func (p *Parameters) wants(kernel string, size int64, connections int) bool {
	if connections > 1 && size > p.MaxBytes/int64(connections) {
		return false
	}
	if p.reduced(kernel) {
		usual := p.Connections[0]
		if slices.Contains(p.Connections, 16) {
			usual = 16
		}
		return connections == usual && (size == 1<<10 || size == switchSize || size == 1<<20 || len(p.Sizes) <= 2)
	}
	// Handshakes take most of the time of these.
	if p.Counted && !p.Full && connections > 64 {
		return size == 1<<10 || size == switchSize
	}
	return true
}

// proxies says whether bodies from a backend are measured.
func (p *Parameters) proxies() bool {
	return slices.Contains(p.Workloads, proxy) || slices.Contains(p.Workloads, proxyMemory)
}

// starts says whether a server has to run. The server plain is the backend too.
func (p *Parameters) starts(server string) bool {
	if server == plain && p.proxies() {
		return true
	}
	return slices.Contains(p.Servers, server) && (server != ktlsHandshake || p.proxies())
}

// serversOf returns the servers that are compared in a case.
func (p *Parameters) serversOf(c Case) []string {
	return slices.DeleteFunc(slices.Clone(p.Servers), func(server string) bool {
		switch {
		case c.Workload == proxy:
			return server != stock && server != ktls && server != ktlsHandshake
		case c.Workload == proxyMemory:
			return server != stock && server != ktlsHandshake
		// The cost of its connections has to be known.
		case c.Workload == connect && c.Size == connectSize && slices.Contains(p.Workloads, proxy):
			return false
		}
		return server == ktlsHandshake
	})
}

// cells returns the cases on a kernel, without servers, in the order in which
// they are measured. The workloads memory and proxy-memory are none of them: the
// host does these.
func (p *Parameters) cells(kernel string) []Case {
	var cells []Case
	has := func(workload string) bool { return slices.Contains(p.Workloads, workload) }
	for _, protocol := range p.Protocols {
		add := func(workload string, size int64, connections int, cipher string) {
			c := Case{kernel, workload, protocol, size, connections, cipher, ""}
			if !slices.Contains(cells, c) {
				cells = append(cells, c)
			}
		}
		first := p.Ciphers[0]
		// A transfer's cost is without that of its connections, so these come first.
		if has(connect) || has(transfer) || has(proxy) {
			add(connect, connectSize, p.Connects, first)
			if has(connect) && slices.Contains(p.Sizes, switchSize) {
				add(connect, switchSize, p.Connects, first)
			}
		}
		if has(transfer) {
			for _, size := range p.Sizes {
				for _, connections := range p.Connections {
					if p.wants(kernel, size, connections) {
						add(transfer, size, connections, first)
					}
				}
			}
			for _, cipher := range p.Ciphers[1:] {
				if !p.reduced(kernel) {
					add(transfer, 1<<20, min(16, slices.Max(p.Connections)), cipher)
				}
			}
		}
		if has(proxy) && !p.reduced(kernel) {
			for _, size := range p.ProxySizes {
				add(proxy, size, 1, first)
			}
		}
		if has(sequence) && !p.reduced(kernel) {
			for _, size := range sequenceSizes {
				add(sequence, size, 1, first)
			}
		}
		if has(syscalls) && !p.reduced(kernel) {
			add(syscalls, 4<<20, 1, first)
		}
		if has(idle) && !p.reduced(kernel) {
			add(idle, connectSize, p.Idle, first)
			add(idle, switchSize, p.Idle, first)
		}
	}
	return cells
}

// steps returns the samples to take on a kernel. The servers alternate, and each
// repetition begins with another one.
func (p *Parameters) steps(kernel string) []step {
	var steps []step
	for _, cell := range p.cells(kernel) {
		repetitions := p.Repetitions
		switch {
		case cell.Workload == syscalls || cell.Workload == idle || cell.Workload == sequence:
			repetitions = 1
		case p.Counted && cell.Size*int64(cell.Connections) > p.MaxBytes:
			repetitions = 1
		case p.Counted && cell.Connections > 64 && cell.Workload == transfer:
			repetitions = min(2, repetitions)
		}
		for repetition := range repetitions {
			servers := p.serversOf(cell)
			for i := range servers {
				c := cell
				c.Server = servers[(i+repetition)%len(servers)]
				if c.Server == plain && c.Cipher != p.Ciphers[0] {
					continue // once is enough
				}
				s := step{Case: c, repetition: repetition + 1, requests: p.requests(c)}
				s.estimate = p.estimate(s)
				steps = append(steps, s)
			}
		}
	}
	return steps
}

// requests returns how many requests a run of a case makes in counted mode: the
// same number on each connection.
func (p *Parameters) requests(c Case) int {
	if c.Workload == connect || c.Workload == idle {
		return c.Connections
	}
	if c.Workload == sequence {
		return sequenceRounds
	}
	n := int(max(1, min(p.RunBytes/c.Size, 800)))
	switch {
	case c.Size <= switchSize:
		n = max(n, 4*c.Connections)
	case c.Size <= p.MaxBytes/int64(c.Connections):
		n = max(n, 2*c.Connections)
	default:
		n = c.Connections
	}
	return (n + c.Connections - 1) / c.Connections * c.Connections
}

// estimate returns seconds. Emulated are 0.06 s per MiB, 1 ms per request and 20
// ms per connection, of server and client together.
func (p *Parameters) estimate(s step) float64 {
	if !p.Counted {
		if s.Workload == transfer {
			return p.Seconds + 1
		}
		return 1
	}
	seconds := 0.2 + 0.001*float64(s.requests) + 0.02*float64(s.Connections) +
		0.06*float64(s.requests)*float64(s.Size)/(1<<20)
	if s.Server == plain {
		seconds /= 3
	}
	if s.proxied() {
		seconds *= 1.5
	}
	if s.Workload == syscalls {
		seconds += 5
	}
	return seconds
}
