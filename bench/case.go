package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// The workloads: what is done with a server for one sample.
const (
	// connect opens connections, each of which makes one request and is closed.
	connect = "connect"
	// transfer makes requests on connections that are kept.
	transfer = "transfer"
	// proxy is a transfer of bodies that reverse_proxy hands on.
	proxy = "proxy"
	// sequence makes one request after the other on one connection, and takes the
	// time of each.
	sequence = "sequence"
	// idle leaves connections open after one request each, and looks at the
	// server's memory.
	idle = "idle"
	// syscalls is a transfer under strace.
	syscalls = "syscalls"
	// memory is a transfer from a machine whose memory accesses go through the
	// model of a cache.
	memory = "memory"
	// proxyMemory is memory with bodies that reverse_proxy hands on.
	proxyMemory = "proxy-memory"
	// slow is many downloads over a slow network, at the same time.
	slow = "slow"
	// distant is a transfer over a network that is fast and long.
	distant = "distant"
	// network takes the time of one large body over a network, on a new connection.
	network = "network"
	// keepAlive takes the times of many requests on one connection over a network.
	keepAlive = "keep-alive"
	// afterIdle takes the time to the first byte of a body on a connection that was
	// offloaded before, and has idled.
	afterIdle = "after-idle"
	// disk downloads many files from a slow disk, and beside them one that is in the page
	// cache.
	diskLoads = "disk"
)

const (
	http1 = "http1"
	http2 = "http2"
)

// The servers. The first four are the same program. The last two are none, see floor.go.
const (
	plain = "plain" // Caddy over http://, the floor
	stock = "stock" // Caddy over https://
	ktls  = "ktls"  // Caddy over https:// with the directive ktls
	// ktlsAll is ktls with the option offload all. It takes part where
	// bodies are proxied, as a connection with no files is moved no other way.
	ktlsAll   = "ktls-all"
	nginx     = "nginx"      // nginx over https://
	nginxKTLS = "nginx-ktls" // nginx over https:// with OpenSSL's kernel TLS

	floorSendfile = "floor"       // a socket with a key, by sendfile(2)
	floorWrite    = "floor-write" // the same by read(2) and write(2)
)

var (
	usualWorkloads   = []string{connect, transfer, proxy, sequence, idle, slow, distant, syscalls, memory, proxyMemory, diskLoads}
	networkWorkloads = []string{network, keepAlive, afterIdle} // only if they are asked for
	allWorkloads     = slices.Concat(usualWorkloads, networkWorkloads)
	allProtocols     = []string{http1, http2}
	allServers       = []string{plain, stock, ktls, ktlsAll, nginx, nginxKTLS, floorSendfile, floorWrite}
)

// cipherSuites are the names that TLS has for the ciphers of -ciphers.
var cipherSuites = map[string]string{
	"aes128":   "TLS_AES_128_GCM_SHA256",
	"aes256":   "TLS_AES_256_GCM_SHA384",
	"chacha20": "TLS_CHACHA20_POLY1305_SHA256",
}

var allCiphers = []string{"aes128", "aes256", "chacha20"}

// switchSize is the length of body, in bytes, from which the module moves a
// connection into the kernel: the default of its option min_size.
const switchSize = 128 << 10

// A Case is what is measured: samples of the same case can be compared.
type Case struct {
	Kernel      string `json:"kernel"`
	Workload    string `json:"workload"`
	Protocol    string `json:"protocol"`
	Size        int64  `json:"size"` // of each body, in bytes
	Connections int    `json:"connections"`
	Cipher      string `json:"cipher"`            // of the servers that encrypt: plain is compared with them
	Network     string `json:"network,omitempty"` // the name of a condition
	Server      string `json:"server"`
}

// A Sample is one measurement.
type Sample struct {
	Case
	Repetition int `json:"repetition"`
	// Seconds is how long it took to measure, on the clock of who did.
	Seconds float64 `json:"seconds"`
	// Values has what was measured by unit, as in "instr/KiB".
	Values map[string]float64 `json:"values"`
	// Calls has the number of system calls by name, of the workload syscalls.
	Calls map[string]int64 `json:"calls,omitempty"`
}

// offloaded says whether the kernel has to encrypt the case's connections. Over HTTP/2
// the module offloads a connection for any large body, over HTTP/1.1 for files only.
func (c Case) offloaded() bool {
	return c.floor() || c.Server == nginxKTLS || c.Server == ktlsAll || c.bySendfile() ||
		c.Server == ktls && c.Protocol == http2 && c.Size >= switchSize
}

// floor says whether nothing but the kernel is measured.
func (c Case) floor() bool { return isFloor(c.Server) }

func isFloor(server string) bool { return server == floorSendfile || server == floorWrite }

// bySendfile says whether the module has to send the bodies by sendfile(2).
func (c Case) bySendfile() bool {
	return c.Server == ktls && c.Size >= switchSize && !c.proxied()
}

// proxied says whether the bodies come from a backend.
func (c Case) proxied() bool { return c.Workload == proxy || c.Workload == proxyMemory }

// outside says whether the clients are outside of the virtual machine.
func (c Case) outside() bool { return c.Workload == memory || c.Workload == proxyMemory }

// over says whether a condition is that of the case.
func (c Case) over(condition condition) bool { return c.Network == condition.name }

// on is the same case with another server.
func (c Case) on(server string) Case {
	c.Server = server
	return c
}

// major is the version of HTTP.
func (c Case) major() int { return map[string]int{http1: 1, http2: 2}[c.Protocol] }

// perRequest says that the cost of a case is given per request, as it is for
// small bodies, most of whose cost is not for their bytes; else it is per KiB.
func (c Case) perRequest() bool { return c.Size < switchSize }

// costUnit is the unit of the counted cost of a transfer.
func (c Case) costUnit() string {
	if c.perRequest() {
		return "instr/req"
	}
	return "instr/KiB"
}

// tlsCipher is the cipher that connections have, or an empty string.
func (c Case) tlsCipher() string {
	if c.Server == plain {
		return ""
	}
	return c.Cipher
}

func (c Case) String() string {
	s := fmt.Sprintf("%-8s %s %7s x %-4d", c.Workload, c.Protocol, formatSize(c.Size), c.Connections)
	if c.Cipher != allCiphers[0] {
		s += " " + c.Cipher
	}
	if c.Network != "" {
		s += " " + c.Network
	}
	return s + " " + c.Server
}

var sizeUnits = []struct {
	name string
	size int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}

// formatSize writes a number of bytes as parseSize reads it.
func formatSize(n int64) string {
	for _, unit := range sizeUnits {
		if n >= unit.size && n%unit.size == 0 {
			return fmt.Sprintf("%d%s", n/unit.size, unit.name)
		}
	}
	return fmt.Sprintf("%dB", n)
}

// parseSize reads a number of bytes such as 64KiB.
func parseSize(s string) (int64, error) {
	number, factor := strings.TrimSuffix(s, "B"), int64(1)
	for _, unit := range sizeUnits {
		if before, ok := strings.CutSuffix(s, unit.name); ok {
			number, factor = before, unit.size
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n <= 0 || n > 1<<40/factor {
		return 0, fmt.Errorf("%q is not a size; write 512B, 64KiB, 1MiB or 1GiB", s)
	}
	return n * factor, nil
}

// rank is the place of a name in a list, behind all others if it is not there.
func rank(list []string, name string) int {
	if i := slices.Index(list, name); i >= 0 {
		return i
	}
	return len(list)
}

// compareCases orders cases as reports show them.
func compareCases(a, b Case) int {
	return cmp.Or(
		cmp.Compare(kernelOrder(a.Kernel), kernelOrder(b.Kernel)),
		cmp.Compare(a.Kernel, b.Kernel),
		cmp.Compare(rank(allWorkloads, a.Workload), rank(allWorkloads, b.Workload)),
		cmp.Compare(a.Protocol, b.Protocol),
		cmp.Compare(rank(allCiphers, a.Cipher), rank(allCiphers, b.Cipher)),
		cmp.Compare(slices.IndexFunc(conditions, a.over), slices.IndexFunc(conditions, b.over)),
		cmp.Compare(a.Size, b.Size),
		cmp.Compare(a.Connections, b.Connections),
		cmp.Compare(rank(allServers, a.Server), rank(allServers, b.Server)),
	)
}

// kernelOrder puts 6.1 before 6.12, and 6.12 before 7.2.
func kernelOrder(version string) int {
	var major, minor int
	_, _ = fmt.Sscanf(version, "%d.%d", &major, &minor)
	return major*1000 + minor
}
