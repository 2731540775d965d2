package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// A witness has counters of who encrypts, before something is measured.
type witness struct {
	server      *server
	Connections int64   `json:"connections"` // whose sending side kernels have taken over since boot
	Sendfile    float64 `json:"sendfile"`    // bytes that the module has sent so
}

// newWitness reads the counters, of a server in a virtual machine there.
func newWitness(ctx context.Context, s *server) (w witness, err error) {
	w.server = s
	if s.control != 0 {
		text, err := getText(ctx, fmt.Sprintf("http://127.0.0.1:%d/witness/%s", s.control, s.name))
		if err == nil {
			err = json.Unmarshal([]byte(text), &w)
		}
		return w, err
	}
	text, err := os.ReadFile("/proc/net/tls_stat")
	if err != nil {
		return w, err
	}
	if w.Connections, err = procNumber(string(text), "TlsTxSw"); err == nil && s.module() {
		w.Sendfile, err = s.metric(ctx, "caddy_ktls_sendfile_bytes_total")
	}
	return w, err
}

// check fails unless the kernel has taken over the connections of a case, if it
// had to, and else none, and the bodies have gone out by sendfile(2) or not. At
// least as many connections and bytes as given have to be. What a client sees
// first, the last byte, may come before the counters.
func (w witness) check(ctx context.Context, c Case, connections int, bytes int64) (err error) {
	for range 20 {
		var now witness
		if now, err = newWitness(ctx, w.server); err != nil {
			return err
		}
		if err = w.compare(now, c, connections, bytes); err == nil {
			return nil
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("this is not what it is to be: %w", err)
}

func (w witness) compare(now witness, c Case, connections int, bytes int64) error {
	taken, sent := now.Connections-w.Connections, now.Sendfile-w.Sendfile
	least := int64(connections)
	if c.Server == ktlsAll && c.Workload == connect {
		least = 1 // the offload follows the response, with which the client has closed
	}
	switch {
	case c.offloaded() && taken < least:
		return fmt.Errorf("the kernel has encrypted %d of %d connections", taken, connections)
	case !c.offloaded() && taken != 0:
		return fmt.Errorf("the kernel has encrypted %d connections "+
			"(TlsTxSw in /proc/net/tls_stat; does another program use kernel TLS?)", taken)
	// The rest of a body that otherwise goes out by sendfile may be copied.
	case c.bySendfile() && sent < 0.95*float64(bytes):
		return fmt.Errorf("%.0f of %d bytes have gone out by sendfile", sent, bytes)
	case !c.bySendfile() && sent != 0:
		return fmt.Errorf("%.0f bytes have gone out by sendfile", sent)
	}
	return nil
}

// metric returns the sum of a metric of Caddy's, 0 if there is none.
func (s *server) metric(ctx context.Context, name string) (float64, error) {
	text, err := getText(ctx, fmt.Sprintf("http://localhost:%d/metrics", s.admin))
	if err != nil {
		return 0, err
	}
	sum, _ := parseMetric(text, name)
	return sum, nil
}

// parseMetric adds up the values of a metric in Prometheus's text format, with
// whatever labels.
func parseMetric(text, name string) (sum float64, found bool) {
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		fields := strings.Fields(rest[strings.LastIndexByte(rest, '}')+1:])
		if len(fields) == 0 {
			continue
		}
		if v, err := strconv.ParseFloat(fields[0], 64); err == nil {
			sum, found = sum+v, true
		}
	}
	return sum, found
}
