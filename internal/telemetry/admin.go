package telemetry

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"runtime/debug"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/caddy-ktls/caddy-ktls/internal/doctor"
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
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return caddy.APIError{
			HTTPStatus: http.StatusMethodNotAllowed,
			Err:        fmt.Errorf("%s %s: only GET and HEAD are possible", r.Method, statusPath),
		}
	}
	status, err := CurrentStatus()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(status)
}

// A Status says what a Caddy process has done since it started.
type Status struct {
	// Available says whether the kernel has kernel TLS and is trusted.
	Available bool `json:"available"`
	// Reason is the word for why it is not available, as in the log. Cause says it in
	// words, and Error is that of the system call. All are empty if it is available.
	Reason string `json:"reason"`
	Cause  string `json:"cause"`
	Error  string `json:"error"`
	// Version is this module's.
	Version string `json:"version"`
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

// CurrentStatus returns the Status of this process.
func CurrentStatus() (*Status, error) {
	status := &Status{Ciphers: []string{}, Servers: []*ServerStatus{}, Version: ModuleVersion()}
	support, err := ktls.Probe()
	if err != nil {
		status.unavailable(err)
	} else {
		status.Available, status.Ciphers = true, support.Ciphers()
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

// unavailable says why kernel TLS is not available. err is what [ktls.Probe] has returned.
func (s *Status) unavailable(err error) {
	state := ktls.KernelUnsupported
	if errors.Is(err, ktls.ErrUntrusted) {
		state = ktls.KernelUntrusted
	}
	s.Reason, s.Cause = state.String(), doctor.Cause(err)
	if state == ktls.KernelUnsupported {
		err = detail(err)
	}
	if err != nil {
		s.Error = err.Error()
	}
}

// ModuleVersion returns the version of this module, as Go has built it in.
func ModuleVersion() string {
	const path = "github.com/caddy-ktls/caddy-ktls"
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, module := range append(build.Deps, &build.Main) {
		if module.Path == path {
			return cmp.Or(module.Version, "unknown")
		}
	}
	return "unknown"
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
