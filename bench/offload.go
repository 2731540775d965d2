package main

import (
	"context"
	"fmt"
	"time"
)

// A witness has counters of who encrypts, before something is measured.
type witness struct {
	server      *server
	Connections int64   `json:"connections"` // that kernels have taken over
	Sendfile    float64 `json:"sendfile"`    // bytes that the module has sent so
}

func newWitness(ctx context.Context, s *server) (w witness, err error) {
	w.server = s
	if w.Connections, err = kernelConnections(); err == nil && s.module() {
		w.Sendfile, err = s.metric(ctx, "caddy_ktls_sendfile_bytes_total")
	}
	return w, err
}

// metric returns the sum of a metric of Caddy's.
func (s *server) metric(ctx context.Context, name string) (float64, error) {
	text, err := get(ctx, fmt.Sprintf("http://localhost:%d/metrics", s.admin))
	if err != nil {
		return 0, err
	}
	sum, _ := parseMetric(text, name)
	return sum, nil
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
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return err
}

func (w witness) compare(now witness, c Case, connections int, bytes int64) error {
	taken, sent := now.Connections-w.Connections, now.Sendfile-w.Sendfile
	switch {
	case c.offloaded() && taken < int64(connections):
		return fmt.Errorf("this is not what it is to be: the kernel has encrypted %d of %d connections", taken, connections)
	case !c.offloaded() && taken != 0:
		return fmt.Errorf("this is not what it is to be: the kernel has encrypted %d connections "+
			"(TlsTxSw in /proc/net/tls_stat; does another program use kernel TLS?)", taken)
	// The rest of a body that otherwise goes out by sendfile may be copied.
	case c.bySendfile() && sent < 0.95*float64(bytes):
		return fmt.Errorf("this is not what it is to be: %.0f of %d bytes have gone out by sendfile", sent, bytes)
	case !c.bySendfile() && sent != 0:
		return fmt.Errorf("this is not what it is to be: %.0f bytes have gone out by sendfile", sent)
	}
	return nil
}
