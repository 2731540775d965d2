package telemetry

import (
	"crypto/rand"
	"crypto/tls"
	"maps"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/fileserver"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// newCounters returns those of a server whose name is new.
func newCounters(t testing.TB) *counters { return countersOf(t.Name() + rand.Text()) }

// insert returns a writer that no connection is known for, with what is known of
// the response.
func insert(t testing.TB) (http.ResponseWriter, *fileserver.Response) {
	t.Helper()
	return fileserver.Wrap(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil),
		&fileserver.Options{MinSize: fileserver.DefaultMinSize})
}

// statusOf returns what is counted for a server.
func statusOf(t testing.TB, name string) ServerStatus {
	t.Helper()
	status, err := CurrentStatus()
	if err != nil {
		t.Fatal(err)
	}
	for _, server := range status.Servers {
		if server.Name == name {
			return *server
		}
	}
	return ServerStatus{}
}

func TestDecided(t *testing.T) {
	m := newCounters(t)
	for _, d := range []ktls.Decision{
		{State: ktls.Offloaded, Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256},
		{State: ktls.Offloaded, Version: tls.VersionTLS12, CipherSuite: tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256},
		{State: ktls.Cipher, Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256},
		{State: ktls.NotTCP}, // before the handshake
	} {
		m.decided(d)
	}
	got := statusOf(t, m.name)
	if want := map[string]int64{"offloaded": 2, "cipher": 1, "not_tcp": 1}; !maps.Equal(got.Connections, want) || got.OffloadedNow != 2 {
		t.Errorf("got %+v", got)
	}
	labels := make(map[string]bool)
	for _, family := range allMetrics(t) {
		for _, metric := range family.GetMetric() {
			values := make(map[string]string)
			for _, label := range metric.GetLabel() {
				values[label.GetName()] = label.GetValue()
			}
			if family.GetName() == "caddy_ktls_connections_total" && values["server"] == m.name && values["outcome"] != "cipher" {
				labels[values["version"]+" "+values["cipher"]] = true
			}
		}
	}
	for _, want := range []string{"TLS 1.3 TLS_AES_128_GCM_SHA256", "TLS 1.2 TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", " "} {
		if !labels[want] {
			t.Errorf("no connection is counted under %q, but %v", want, labels)
		}
	}
}

// A response of no connection that can be offloaded.
func TestDone(t *testing.T) {
	for _, tt := range []struct {
		body, reason string
		sending      bool // counted before it is sent
	}{
		{"nothing", "not_a_file", false},
		{"text", "not_a_file", false},
		{"small file", "small", false},
		{"large file", "not_offloadable", true},
	} {
		t.Run(tt.body, func(t *testing.T) {
			m := newCounters(t)
			w, response := insert(t)
			n := testutil.Respond(t, w, tt.body, fileserver.DefaultMinSize)
			if response.Eligible() != tt.sending {
				t.Errorf("eligible: %v", response.Eligible())
			}
			m.done(response)
			got := statusOf(t, m.name)
			responses, bytes := map[string]int64{tt.reason: 1}, map[string]int64{tt.reason: n}
			if tt.sending {
				responses = map[string]int64{}
			}
			if n == 0 {
				bytes = map[string]int64{}
			}
			if !maps.Equal(got.Responses, responses) || !maps.Equal(got.CopiedBytes, bytes) {
				t.Errorf("got %+v", got)
			}
		})
	}
}
