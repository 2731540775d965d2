package ktls

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
)

// SystemCalls says how often a process has called what sends.
type SystemCalls struct{ Sendfile, Sendmsg int64 }

var systemCalls struct{ sendfile, sendmsg atomic.Int64 }

// CountedSystemCalls returns how often this process has called sendfile(2) and sendmsg(2)
// for offloaded connections. The kernel's own counters (proc_pid_io(5)) have no sendmsg,
// and each sendfile twice.
func CountedSystemCalls() SystemCalls {
	return SystemCalls{Sendfile: systemCalls.sendfile.Load(), Sendmsg: systemCalls.sendmsg.Load()}
}

// KernelStatistics returns the kernel's TLS counters by their names, such as TlsCurrTxSw.
// They are those of the network namespace that the process is in (Linux,
// Documentation/networking/tls.rst). It returns an error if there are none.
func KernelStatistics() (map[string]uint64, error) {
	const name = "/proc/net/tls_stat"
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("ktls: reading the kernel's TLS counters: %w", err)
	}
	counters := make(map[string]uint64)
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) != 2 {
			return nil, fmt.Errorf("ktls: unexpected line in %s: %q", name, line)
		}
		if counters[fields[0]], err = strconv.ParseUint(fields[1], 10, 64); err != nil {
			return nil, fmt.Errorf("ktls: unexpected line in %s: %q", name, line)
		}
	}
	return counters, nil
}
