package main

import "slices"

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
	return slices.Contains(p.Servers, server) && (server != ktlsAll || p.proxies())
}

// serversOf returns the servers that are compared in a case.
func (p *Parameters) serversOf(c Case) []string {
	return slices.DeleteFunc(slices.Clone(p.Servers), func(server string) bool {
		switch {
		case isFloor(server):
			return c.Workload != transfer || c.perRequest()
		case c.Network != "":
			return server != stock && server != ktls
		case c.Workload == proxy:
			return server != stock && server != ktls && server != ktlsAll
		case c.Workload == diskLoads && server == plain:
			return true
		case c.Workload == proxyMemory:
			return server != stock && server != ktlsAll
		case (c.Workload == slow || c.Workload == distant) && server == plain:
			return true
		// The cost of its connections has to be known.
		case c.Workload == connect && c.Size == connectSize && slices.Contains(p.Workloads, proxy):
			return false
		}
		return server == ktlsAll
	})
}

// memorySize returns the length of the bodies of the workload memory, each on a connection
// of its own. With more than 32 connections they are shorter.
func (p *Parameters) memorySize(connections int) int64 {
	return p.MemoryBytes * 32 / int64(max(connections, 32))
}

// jobs returns what virtual machines are to do, one after the other.
func (p *Parameters) jobs() []job {
	var jobs []job
	for _, kernel := range p.Kernels {
		jobs = append(jobs, job{Parameters: *p, Kernel: kernel})
		jobs = append(jobs, job{Parameters: *p, Kernel: kernel, Collects: true})
		jobs = append(jobs, job{Parameters: *p, Kernel: kernel, Network: true})
	}
	jobs = append(jobs, job{Parameters: *p, Kernel: p.mainKernel(), Serve: true})
	return slices.DeleteFunc(jobs, func(j job) bool { return len(j.steps()) == 0 })
}

// cells returns the cases of a job, without servers, in the order in which they are
// measured.
func (j job) cells() []Case {
	p := &j.Parameters
	if j.Network {
		return j.networkCells()
	}
	var cells []Case
	for _, protocol := range p.Protocols {
		first := p.Ciphers[0]
		add := func(workload string, size int64, connections int, cipher string) {
			c := Case{Kernel: j.Kernel, Workload: workload, Protocol: protocol, Size: size, Connections: connections, Cipher: cipher}
			if !slices.Contains(cells, c) && slices.Contains(p.Workloads, workload) {
				cells = append(cells, c)
			}
		}
		if j.Serve {
			for _, connections := range p.MemoryConnections {
				add(memory, p.memorySize(connections), connections, first)
			}
			add(proxyMemory, p.MemoryBytes, 16, first)
			continue
		}
		// A transfer's cost is without that of its connections, so these come first.
		if slices.Contains(p.Workloads, transfer) || slices.Contains(p.Workloads, proxy) {
			cells = append(cells, Case{Kernel: j.Kernel, Workload: connect, Protocol: protocol, Size: connectSize, Connections: p.Connects, Cipher: first})
		}
		add(connect, connectSize, p.Connects, first)
		if slices.Contains(p.Sizes, switchSize) {
			add(connect, switchSize, p.Connects, first)
		}
		for _, size := range p.Sizes {
			for _, connections := range p.Connections {
				if p.wants(j.Kernel, size, connections) {
					add(transfer, size, connections, first)
				}
			}
		}
		if p.reduced(j.Kernel) {
			continue
		}
		for _, cipher := range p.Ciphers[1:] {
			add(transfer, 1<<20, min(16, slices.Max(p.Connections)), cipher)
		}
		for _, size := range p.ProxySizes {
			add(proxy, size, 1, first)
		}
		for _, size := range sequenceSizes {
			add(sequence, size, 1, first)
		}
		add(syscalls, 4<<20, 1, first)
		add(diskLoads, p.DiskBytes, p.DiskFiles, first)
		add(idle, connectSize, p.Idle, first)
		add(idle, switchSize, p.Idle, first)
		add(slow, slowSize, p.Slow, first)
		add(distant, distantSize, 1, first)
	}
	// Natively there is one job, for all workloads.
	return slices.DeleteFunc(cells, func(c Case) bool {
		return p.Counted && j.Collects != slices.Contains(collected, c.Workload)
	})
}

// networkCells returns the cases of a job over a network.
func (j job) networkCells() (cells []Case) {
	p := &j.Parameters
	for _, workload := range networkWorkloads {
		if !slices.Contains(p.Workloads, workload) {
			continue
		}
		size := map[string]int64{network: networkSize, keepAlive: slices.Max(keepAliveSizes), afterIdle: afterIdleSize}[workload]
		for _, protocol := range p.Protocols {
			for _, condition := range networkOf[workload] {
				if len(p.Networks) > 0 && !slices.Contains(p.Networks, condition) {
					continue
				}
				cells = append(cells, Case{Kernel: j.Kernel, Workload: workload, Protocol: protocol, Size: size,
					Connections: 1, Cipher: p.Ciphers[0], Network: condition})
			}
		}
	}
	return cells
}

// bootSeconds is how long a machine takes to boot and to start the servers,
// emulated.
const bootSeconds = 25

// steps returns the samples to take. The servers alternate, and each repetition
// begins with another one. With clients outside none follows itself, as what it has
// left in the cache would help it.
func (j job) steps() []step {
	p := &j.Parameters
	var steps []step
	for _, cell := range j.cells() {
		servers := p.serversOf(cell)
		for repetition := range p.repetitions(cell) {
			for i := range servers {
				if !j.Serve {
					i += repetition
				}
				c := cell.on(servers[i%len(servers)])
				if c.Server == plain && c.Cipher != p.Ciphers[0] {
					continue // once is enough
				}
				s := step{Case: c, repetition: repetition + 1, requests: p.requests(c)}
				s.estimate = p.estimate(s)
				steps = append(steps, s)
			}
		}
	}
	if p.Counted && !j.Serve && len(steps) > 0 {
		steps[0].estimate += bootSeconds
	}
	return steps
}

// sizes returns the lengths of the bodies that the steps need.
func (j job) sizes() (sizes []int64) {
	for _, s := range j.steps() {
		sizes = append(sizes, s.Size)
		if s.Workload == diskLoads {
			sizes = append(sizes, connectSize)
		}
	}
	return sizes
}

// total returns seconds.
func total(steps []step) (seconds float64) {
	for _, s := range steps {
		seconds += s.estimate
	}
	return seconds
}

func (p *Parameters) repetitions(c Case) int {
	switch {
	case c.Workload == keepAlive:
		return 1
	case conditionOf(c.Network).random:
		return 4 * p.Repetitions
	case c.Workload == memory && c.Connections > 64:
		return 1
	case c.outside():
		return p.MemoryRepetitions
	case c.Workload == syscalls || c.Workload == idle || c.Workload == slow || c.Workload == distant || c.Workload == sequence || c.Workload == diskLoads:
		return 1
	case p.Counted && c.Size*int64(c.Connections) > p.MaxBytes:
		return 1
	case p.Counted && c.Connections > 64 && c.Workload == transfer:
		return min(2, p.Repetitions)
	}
	return p.Repetitions
}

// requests returns how many requests a run of a case makes in counted mode: the
// same number on each connection.
func (p *Parameters) requests(c Case) int {
	switch c.Workload {
	case connect, idle, memory, proxyMemory, slow, distant, diskLoads:
		return c.Connections
	case sequence:
		return sequenceRounds
	case network, afterIdle:
		return 1
	case keepAlive:
		return keepAliveRequests
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
	mib := float64(s.requests) * float64(s.Size) / (1 << 20)
	seconds := 0.2 + 0.001*float64(s.requests) + 0.02*float64(s.Connections) + 0.06*mib
	switch {
	case s.Network != "": // each packet goes through four cards
		seconds = 2 + mib
	case s.outside():
		seconds = 0.3 * mib // through the model of the cache
	case s.Workload == slow:
		seconds = 0.2 * float64(s.Connections)
	case s.Workload == syscalls:
		seconds += 5 // strace
	case s.Server == plain || s.floor():
		seconds /= 3
	}
	if s.proxied() {
		seconds *= 1.5
	}
	return seconds
}
