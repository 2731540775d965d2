// Package telemetry tells operators what becomes of connections and responses, through
// metrics, the log, placeholders, the admin API and `caddy ktls status`.
//
// The Caddy modules report to [Connections] and [Responses]. The admin API and the
// command read the metrics, so they show the same numbers.
//
// # Locks
//
// Each cache of counters has a lock, counterCache.mu, which guards its map. While it is
// held, the registry of Prometheus takes locks of its own, but nothing of this module is
// called. No other code of this package waits for anybody.
package telemetry
