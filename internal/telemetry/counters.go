package telemetry

import (
	"cmp"
	"crypto/tls"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-ktls/caddy-ktls/fileserver"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// counters are the counters of one HTTP server.
type counters struct {
	name          string
	offloaded     prometheus.Gauge
	keyUpdates    prometheus.Counter
	retired       prometheus.Counter
	lost          prometheus.Counter
	failed        prometheus.Counter
	handshakes    [2]prometheus.Counter // in full, and resumed
	sendfileBytes prometheus.Counter

	responses   counterCache[fileserver.Reason]
	copiedBytes counterCache[fileserver.Reason]
	connections counterCache[outcome]
}

// An outcome is the final state of a connection, with what was negotiated.
type outcome struct {
	state           ktls.State
	version, cipher uint16 // zero if the handshake is not complete
}

func countersOf(name string) *counters {
	return &counters{
		name:       name,
		offloaded:  metrics.offloaded.WithLabelValues(name),
		keyUpdates: metrics.keyUpdates.WithLabelValues(name),
		retired:    metrics.retired.WithLabelValues(name),
		lost:       metrics.lost.WithLabelValues(name),
		failed:     metrics.failed.WithLabelValues(name),
		handshakes: [2]prometheus.Counter{
			metrics.handshakes.WithLabelValues(name, "no"), metrics.handshakes.WithLabelValues(name, "yes"),
		},
		sendfileBytes: metrics.sendfileBytes.WithLabelValues(name),
	}
}

// A counterCache keeps counters, because finding one by its labels takes longer than
// everything else that is done for a small response.
type counterCache[K comparable] struct {
	mu    sync.RWMutex
	known map[K]prometheus.Counter
}

// get returns the counter for a key. It calls labels the first time.
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

// decided counts the final state of a connection.
func (c *counters) decided(d ktls.Decision) {
	o := outcome{d.State, d.Version, d.CipherSuite}
	c.connections.get(o, metrics.connections, func() []string {
		if o.version == 0 {
			return []string{c.name, o.state.String(), "", ""}
		}
		return []string{c.name, o.state.String(), tls.VersionName(o.version), tls.CipherSuiteName(o.cipher)}
	}).Inc()
	if d.State == ktls.Offloaded {
		c.offloaded.Inc()
	}
	switch {
	case d.Version == 0:
	case d.Resumed:
		c.handshakes[1].Inc()
	default:
		c.handshakes[0].Inc()
	}
}

// sending counts a response by its reason.
func (c *counters) sending(reason fileserver.Reason) {
	c.responses.get(reason, metrics.responses, func() []string {
		return []string{c.name, cmp.Or(string(reason), "sendfile")}
	}).Inc()
}

// done counts what is known after a response was handled.
func (c *counters) done(response *fileserver.Response) {
	reason := response.Reason()
	if !response.Eligible() {
		c.sending(reason)
	}
	if n := response.Copied(); n > 0 {
		c.copiedBytes.get(reason, metrics.copiedBytes, func() []string {
			return []string{c.name, cmp.Or(string(reason), "remainder")}
		}).Add(float64(n))
	}
}
