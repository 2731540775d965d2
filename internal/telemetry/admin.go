package telemetry

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// statusPath is the path of the Status at the admin endpoint.
const statusPath = "/ktls/status"

// AdminAPI adds GET /ktls/status to the admin endpoint. The response has the numbers of
// the metrics as JSON. `caddy ktls status` shows it. There is nothing to configure.
type AdminAPI struct{}

// CaddyModule returns the Caddy module information.
func (AdminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.ktls",
		New: func() caddy.Module { return new(AdminAPI) },
	}
}

// Routes implements caddy.AdminRouter.
func (AdminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{Pattern: statusPath, Handler: caddy.AdminHandlerFunc(serveStatus)}}
}

func serveStatus(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		return caddy.APIError{HTTPStatus: http.StatusMethodNotAllowed}
	}
	status, err := currentStatus()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(status)
}

// A Status says what a Caddy process has done since it started.
type Status struct {
	// Kernel is "supported", or says why kernel TLS is not available.
	Kernel string `json:"kernel"`
	// Ciphers are the ciphers that the kernel can do.
	Ciphers []string `json:"ciphers"`
	// Servers are the HTTP servers that have had the directive ktls since the process
	// started, sorted by name.
	Servers []*ServerStatus `json:"servers"`
}

// A ServerStatus says what an HTTP server has done. Outcomes and reasons are the words of
// the metrics.
type ServerStatus struct {
	Name               string           `json:"name"`
	OffloadedNow       int64            `json:"offloaded_now"`       // open connections
	Connections        map[string]int64 `json:"connections"`         // by outcome
	Responses          map[string]int64 `json:"responses"`           // by outcome
	SendfileBytes      int64            `json:"sendfile_bytes"`      // of bodies
	CopiedBytes        map[string]int64 `json:"copied_bytes"`        // of bodies, by reason
	KeyUpdates         int64            `json:"key_updates"`         // keys replaced in the kernel
	ConnectionsRetired int64            `json:"connections_retired"` // because a key could not be replaced
	ConnectionsLost    int64            `json:"connections_lost"`    // the client did not take the last bytes
	ResponsesFailed    int64            `json:"responses_failed"`    // not sent whole
}

// currentStatus reads the metrics.
func currentStatus() (*Status, error) {
	status := &Status{Kernel: "supported", Ciphers: []string{}, Servers: []*ServerStatus{}}
	support, err := ktls.Probe()
	if err != nil {
		status.Kernel = err.Error()
	} else {
		status.Ciphers = support.Ciphers()
	}
	registry := prometheus.NewRegistry()
	if err := Register(registry); err != nil {
		return nil, err
	}
	families, err := registry.Gather()
	if err != nil {
		return nil, err
	}
	servers := make(map[string]*ServerStatus)
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			labels := make(map[string]string)
			for _, label := range metric.GetLabel() {
				labels[label.GetName()] = label.GetValue()
			}
			name, ok := labels["server"]
			if !ok {
				continue // a metric of the kernel
			}
			if servers[name] == nil {
				servers[name] = &ServerStatus{
					Name: name, Connections: map[string]int64{}, Responses: map[string]int64{}, CopiedBytes: map[string]int64{},
				}
			}
			servers[name].set(family.GetName(), labels, value(metric))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(servers)) {
		status.Servers = append(status.Servers, servers[name])
	}
	return status, nil
}

func value(m *dto.Metric) int64 { return int64(m.GetCounter().GetValue() + m.GetGauge().GetValue()) }

func (s *ServerStatus) set(name string, labels map[string]string, n int64) {
	switch name {
	case "caddy_ktls_connections_total":
		s.Connections[labels["outcome"]] += n
	case "caddy_ktls_responses_total":
		s.Responses[labels["outcome"]] += n
	case "caddy_ktls_copied_bytes_total":
		s.CopiedBytes[labels["reason"]] += n
	case "caddy_ktls_offloaded_connections":
		s.OffloadedNow = n
	case "caddy_ktls_sendfile_bytes_total":
		s.SendfileBytes = n
	case "caddy_ktls_key_updates_total":
		s.KeyUpdates = n
	case "caddy_ktls_connections_retired_total":
		s.ConnectionsRetired = n
	case "caddy_ktls_connections_lost_total":
		s.ConnectionsLost = n
	case "caddy_ktls_responses_failed_total":
		s.ResponsesFailed = n
	}
}

var _ caddy.AdminRouter = AdminAPI{}
