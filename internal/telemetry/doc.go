// Package telemetry tells operators what becomes of connections and responses, by
// metrics, the log, placeholders, the admin API and `caddy ktls status`.
//
// [Connections] and [Responses] are what the Caddy modules report to. All the others
// read the metrics, so that they say the same.
//
// # Locks
//
// Each cache of counters has a lock, counterCache.mu, which guards its map. The
// registry of Prometheus takes locks of its own while it is held; nothing of this
// module is called with it. No other code of this package waits for anybody.
package telemetry
