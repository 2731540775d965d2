package caddyktls

import (
	"cmp"
	"crypto/tls"
	"errors"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-ktls/caddy-ktls/fileserver"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// metrics belong to the process: connections outlive the configuration that
// they were accepted under. All have the label server, the name of the HTTP
// server in Caddy's configuration.
var metrics = struct {
	connections   *prometheus.CounterVec
	offloaded     *prometheus.GaugeVec
	keyUpdates    *prometheus.CounterVec
	retired       *prometheus.CounterVec
	lost          *prometheus.CounterVec
	responses     *prometheus.CounterVec
	failed        *prometheus.CounterVec
	sendfileBytes *prometheus.CounterVec
	copiedBytes   *prometheus.CounterVec
	kernel        kernelCollector
}{
	kernel: ktls.KernelStatistics,
	connections: counter("connections_total",
		"TLS connections by outcome (offloaded, or the reason why not), TLS version and cipher suite.",
		"outcome", "version", "cipher"),
	offloaded: prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: "caddy", Subsystem: "ktls", Name: "offloaded_connections",
		Help: "Open connections that are offloaded.",
	}, []string{"server"}),
	keyUpdates: counter("key_updates_total", "Keys of offloaded connections that were replaced in the kernel."),
	retired:    counter("connections_retired_total", "Offloaded connections that had to end since the kernel could not replace their key."),
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

// registerMetrics adds the metrics to the registry of a configuration.
func registerMetrics(registry *prometheus.Registry) error {
	for _, c := range []prometheus.Collector{
		metrics.connections, metrics.offloaded, metrics.keyUpdates, metrics.retired, metrics.lost,
		metrics.responses, metrics.failed, metrics.sendfileBytes, metrics.copiedBytes, metrics.kernel,
	} {
		var already prometheus.AlreadyRegisteredError
		if err := registry.Register(c); err != nil && !errors.As(err, &already) {
			return err
		}
	}
	return nil
}

// serverMetrics are those of the HTTP server of a name.
type serverMetrics struct {
	name          string
	offloaded     prometheus.Gauge
	keyUpdates    prometheus.Counter
	retired       prometheus.Counter
	lost          prometheus.Counter
	failed        prometheus.Counter
	sendfileBytes prometheus.Counter

	responses   counterCache[fileserver.Reason]
	copiedBytes counterCache[fileserver.Reason]
	connections counterCache[outcome]
}

// An outcome is what becomes of a connection.
type outcome struct {
	reason          ktls.State
	version, cipher uint16 // zero if the handshake is not complete
}

func metricsOf(name string) *serverMetrics {
	return &serverMetrics{
		name:          name,
		offloaded:     metrics.offloaded.WithLabelValues(name),
		keyUpdates:    metrics.keyUpdates.WithLabelValues(name),
		retired:       metrics.retired.WithLabelValues(name),
		lost:          metrics.lost.WithLabelValues(name),
		failed:        metrics.failed.WithLabelValues(name),
		sendfileBytes: metrics.sendfileBytes.WithLabelValues(name),
	}
}

// A counterCache keeps counters, since to find one by its labels takes longer
// than all else that is done for a small response.
type counterCache[K comparable] struct {
	mu    sync.RWMutex
	known map[K]prometheus.Counter
}

// get returns the counter of a key. The first time it asks for its labels.
func (c *counterCache[K]) get(key K, all *prometheus.CounterVec, labels func() []string) prometheus.Counter {
	c.mu.RLock()
	counter := c.known[key]
	c.mu.RUnlock()
	if counter != nil {
		return counter
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil {
		c.known = make(map[K]prometheus.Counter)
	}
	c.known[key] = all.WithLabelValues(labels()...)
	return c.known[key]
}

// decided counts a connection that is offloaded or not.
func (m *serverMetrics) decided(d ktls.Decision) {
	o := outcome{d.State, d.Version, d.CipherSuite}
	m.connections.get(o, metrics.connections, func() []string {
		if o.version == 0 {
			return []string{m.name, o.reason.String(), "", ""}
		}
		return []string{m.name, o.reason.String(), tls.VersionName(o.version), tls.CipherSuiteName(o.cipher)}
	}).Inc()
	if d.State == ktls.Offloaded {
		m.offloaded.Inc()
	}
}

// sending counts a response with a file.
func (m *serverMetrics) sending(reason fileserver.Reason) {
	m.responses.get(reason, metrics.responses, func() []string {
		return []string{m.name, cmp.Or(string(reason), "sendfile")}
	}).Inc()
}

// done counts what is known when a response has been handled.
func (m *serverMetrics) done(response *fileserver.Response) {
	reason := response.Reason()
	if !response.Eligible() {
		m.sending(reason)
	}
	if n := response.Copied(); n > 0 {
		m.copiedBytes.get(reason, metrics.copiedBytes, func() []string {
			return []string{m.name, cmp.Or(string(reason), "remainder")}
		}).Add(float64(n))
	}
}

// A kernelCollector tells what the kernel counts, for all processes of the
// network namespace.
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
