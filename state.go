package caddyktls

import (
	"errors"
	"fmt"
	"sync"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// wrappedServers are the HTTP servers of all loaded configurations that have
// the listener wrapper. The handler looks there: a server's own list of wrappers
// is emptied when they are loaded.
var wrappedServers serverSet

type serverSet struct {
	mu      sync.Mutex
	servers map[*caddyhttp.Server]*wrappedServer
}

type wrappedServer struct {
	install  ktls.Install
	wrappers int // the directive may stand in several sites
}

// add tells whether it is the server's first wrapper.
func (s *serverSet) add(server *caddyhttp.Server, install ktls.Install) (first bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.servers == nil {
		s.servers = make(map[*caddyhttp.Server]*wrappedServer)
	}
	known := s.servers[server]
	if known == nil {
		known = &wrappedServer{install: install}
		s.servers[server] = known
	}
	if known.install != install {
		return false, fmt.Errorf("ktls: the sites at %v share one server, but not one value of the option install", server.Listen)
	}
	known.wrappers++
	return known.wrappers == 1, nil
}

func (s *serverSet) remove(server *caddyhttp.Server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.servers[server]; known != nil {
		if known.wrappers--; known.wrappers == 0 {
			delete(s.servers, server)
		}
	}
}

func (s *serverSet) has(server *caddyhttp.Server) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.servers[server] != nil
}

// drain counts the connections of all configurations that are closed but have
// data left to send: they outlive their configuration.
var drain ktls.Drain

// reasonLog logs each reason at level info once in the life of the process, and
// at debug afterwards.
var reasonLog onceLog

type onceLog struct{ seen sync.Map }

func (l *onceLog) write(logger *zap.Logger, message, reason string, fields ...zap.Field) {
	level := zap.DebugLevel
	if _, seen := l.seen.LoadOrStore(reason, true); !seen {
		level = zap.InfoLevel
	}
	if entry := logger.Check(level, message); entry != nil {
		entry.Write(append(fields, zap.String("reason", reason))...)
	}
}

// metrics belong to the process: connections outlive the configuration that
// they were accepted under.
var metrics = struct {
	connections   *prometheus.CounterVec
	responses     *prometheus.CounterVec
	sendfileBytes prometheus.Counter
	failed        prometheus.Counter
	lost          prometheus.Counter
}{
	connections: prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "ktls", Name: "connections_total",
		Help: "TLS connections by outcome: offloaded, or the reason why not.",
	}, []string{"outcome"}),
	responses: prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "ktls", Name: "responses_total",
		Help: "Responses with a file of at least min_size by outcome: sendfile, or the reason why it was copied.",
	}, []string{"outcome"}),
	sendfileBytes: prometheus.NewCounter(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "ktls", Name: "sendfile_bytes_total",
		Help: "Bytes of bodies sent by sendfile(2).",
	}),
	failed: prometheus.NewCounter(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "ktls", Name: "responses_failed_total",
		Help: "Responses by sendfile(2) that were not sent whole.",
	}),
	lost: prometheus.NewCounter(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "ktls", Name: "connections_lost_total",
		Help: "Connections closed in an orderly way whose last bytes the client did not take.",
	}),
}

// registerMetrics adds the metrics to the registry of a configuration.
func registerMetrics(registry *prometheus.Registry) error {
	for _, c := range []prometheus.Collector{
		metrics.connections, metrics.responses, metrics.sendfileBytes, metrics.failed, metrics.lost,
	} {
		var already prometheus.AlreadyRegisteredError
		if err := registry.Register(c); err != nil && !errors.As(err, &already) {
			return err
		}
	}
	return nil
}
