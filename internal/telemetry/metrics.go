package telemetry

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// metrics belong to the process, because connections outlive the configuration that they
// were accepted under. All but available and those of the kernel have the label
// server, the name of the HTTP server in Caddy's configuration.
var metrics = struct {
	connections   *prometheus.CounterVec
	handshakes    *prometheus.CounterVec
	offloaded     *prometheus.GaugeVec
	keyUpdates    *prometheus.CounterVec
	retired       *prometheus.CounterVec
	lost          *prometheus.CounterVec
	responses     *prometheus.CounterVec
	failed        *prometheus.CounterVec
	sendfileBytes *prometheus.CounterVec
	copiedBytes   *prometheus.CounterVec
	available     prometheus.Collector
	kernel        kernelCollector
}{
	kernel: ktls.KernelStatistics,
	available: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "caddy", Subsystem: "ktls", Name: "available",
		Help: "Whether the kernel has kernel TLS and is trusted: 1, else 0. caddy ktls status says why.",
	}, available),
	connections: counter("connections_total",
		"TLS connections by outcome (offloaded, or the reason why not), TLS version and cipher suite.",
		"outcome", "version", "cipher"),
	handshakes: counter("handshakes_total",
		"TLS handshakes of the connections that are in connections_total, if they were complete.", "resumed"),
	offloaded: prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: "caddy", Subsystem: "ktls", Name: "offloaded_connections",
		Help: "Open connections that are offloaded.",
	}, []string{"server"}),
	keyUpdates: counter("key_updates_total", "Keys of offloaded connections that were replaced in the kernel."),
	retired:    counter("connections_retired_total", "Offloaded connections that had to end because the kernel could not replace their key."),
	lost:       counter("connections_lost_total", "Connections closed in an orderly way whose last bytes the client did not take."),
	responses: counter("responses_total",
		"Responses by outcome: sendfile, or the reason why the body was copied.", "outcome"),
	failed:        counter("responses_failed_total", "Responses by sendfile(2) that were not sent whole."),
	sendfileBytes: counter("sendfile_bytes_total", "Bytes of bodies sent by sendfile(2)."),
	copiedBytes: counter("copied_bytes_total",
		"Bytes of bodies that were copied, by reason; remainder: of responses that otherwise went out by sendfile(2).", "reason"),
}

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "ktls", Name: name, Help: help,
	}, append([]string{"server"}, labels...))
}

// Register adds the metrics to the registry of a configuration.
func Register(registry *prometheus.Registry) error {
	for _, c := range []prometheus.Collector{
		metrics.connections, metrics.handshakes, metrics.offloaded, metrics.keyUpdates, metrics.retired, metrics.lost,
		metrics.responses, metrics.failed, metrics.sendfileBytes, metrics.copiedBytes,
		metrics.available, metrics.kernel,
	} {
		var already prometheus.AlreadyRegisteredError
		if err := registry.Register(c); err != nil && !errors.As(err, &already) {
			return err
		}
	}
	return nil
}

func available() float64 {
	if _, err := ktls.Probe(); err != nil {
		return 0
	}
	return 1
}

// A kernelCollector collects what the kernel counts, for all processes of the network
// namespace.
type kernelCollector func() (map[string]uint64, error)

var kernelConnections = prometheus.NewDesc("caddy_ktls_kernel_connections",
	"Connections whose sending side the kernel encrypts now, of all processes in the network namespace, by mode: software, or device (the network card).",
	[]string{"mode"}, nil)

// Describe implements prometheus.Collector.
func (kernelCollector) Describe(descriptions chan<- *prometheus.Desc) {
	descriptions <- kernelConnections
}

// Collect implements prometheus.Collector.
func (statistics kernelCollector) Collect(values chan<- prometheus.Metric) {
	stat, err := statistics()
	if err != nil {
		return // no kernel TLS
	}
	for mode, name := range map[string]string{"software": "TlsCurrTxSw", "device": "TlsCurrTxDevice"} {
		values <- prometheus.MustNewConstMetric(kernelConnections, prometheus.GaugeValue, float64(stat[name]), mode)
	}
}
