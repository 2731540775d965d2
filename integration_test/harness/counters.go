package harness

import (
	"io"
	"strings"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Counts are the module's counters, or changes of them, by short names:
// connections:offloaded for caddy_ktls_connections_total{outcome="offloaded"}, with all
// servers, versions and ciphers together, and sendfile_bytes for
// caddy_ktls_sendfile_bytes_total. [KernelTaken] is one of them too.
type Counts map[string]int64

// KernelTaken counts the connections that the kernel has taken since it booted.
const KernelTaken = "tls_tx"

// AnyNumber stands for a change that a test can't predict.
const AnyNumber = -1

// ReadCounters reads the module's counters from Caddy's metrics. It leaves out gauges,
// handshakes, and what says how bodies too small to be offloaded are copied.
func ReadCounters(metrics io.Reader) (Counts, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(metrics)
	if err != nil {
		return nil, err
	}
	all := make(Counts)
	for name, family := range families {
		name, ours := strings.CutPrefix(name, "caddy_ktls_")
		if !ours || family.GetMetric()[0].Counter == nil || name == "copied_bytes_total" || name == "handshakes_total" {
			continue
		}
		name = strings.TrimSuffix(name, "_total")
		for _, m := range family.GetMetric() {
			key := name
			for _, label := range m.GetLabel() {
				if label.GetName() == "outcome" {
					key += ":" + label.GetValue()
				}
			}
			switch key {
			case "responses:small", "responses:not_a_file":
			default:
				all[key] += int64(m.GetCounter().GetValue())
			}
		}
	}
	return all, nil
}

// Sent returns the changes of the counters by one connection that carries these files by
// sendfile(2).
func Sent(files ...File) Counts {
	want := Counts{"connections:offloaded": 1}
	for _, f := range files {
		want.AddSent(f.Size)
	}
	return want
}

// SentByKernel returns the changes by one connection that carries one response of a size
// by sendfile(2).
func SentByKernel(size int64) Counts { return SentTimes(1, 1, size) }

// SentTimes returns the changes by connections that carry responses by sendfile(2), of so
// many bytes altogether.
func SentTimes(connections, responses, bytes int64) Counts {
	return Counts{"connections:offloaded": connections, "responses:sendfile": responses, "sendfile_bytes": bytes}
}

// Copied returns the changes by one connection that is not worth offloading.
func Copied() Counts { return Counts{"connections:not_needed": 1} }

// Unsupported returns the changes by connections and responses where the kernel has no
// kernel TLS.
func Unsupported(connections, responses int64) Counts {
	return Counts{"connections:kernel_unsupported": connections, "responses:kernel_unsupported": responses}
}

// SentOrNot returns the changes by a file of a size on a connection of its own.
func SentOrNot(size int64) Counts {
	if size < MinSize {
		return Copied()
	}
	return SentByKernel(size)
}

// AddSent adds a response of a size by sendfile(2).
func (c Counts) AddSent(size int64) {
	c["responses:sendfile"]++
	c["sendfile_bytes"] += size
}
