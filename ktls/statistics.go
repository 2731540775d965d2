package ktls

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

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
