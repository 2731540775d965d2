package telemetry

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
)

func TestStatusWrite(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status Status
		want   string
	}{
		{"no server", Status{Available: true, Version: "v1"}, `kernel TLS  available
module      v1
servers     none with the directive ktls
`},
		{"no kernel TLS", Status{Reason: "kernel_unsupported", Cause: "the module tls is not loaded", Error: "setsockopt: no such file", Version: "v1"},
			`kernel TLS  not available (kernel_unsupported): the module tls is not loaded. Run caddy ktls check
error       setsockopt: no such file
module      v1
servers     none with the directive ktls
`},
		{"two servers", Status{Available: true, Version: "v1", Servers: []*ServerStatus{
			{
				Name: "srv0", OffloadedNow: 2,
				Connections:   map[string]int64{"not_needed": 3, "offloaded": 1234, "cipher": 3},
				Responses:     map[string]int64{"sendfile": 10},
				SendfileBytes: 3 << 30, CopiedBytes: map[string]int64{"small": 2048, "remainder": 10, "http2": 0},
				KeyUpdates: 1, ConnectionsLost: 5,
			},
			{Name: "srv1"},
		}}, `kernel TLS  available
module       v1

server           srv0
  connections    offloaded 1,234, cipher 3, not_needed 3; 2 offloaded now
  responses      sendfile 10
  by sendfile    3.0 GiB
  copied         small 2.0 KiB, remainder 10 B
  keys replaced  1
  connections lost  5

server         srv1
  connections  none; 0 offloaded now
  responses    none
  by sendfile  0 B
  copied       none
`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got strings.Builder
			if err := tt.status.write(&got); err != nil {
				t.Fatal(err)
			}
			// How wide columns are is up to the table.
			if a, b := strings.Fields(got.String()), strings.Fields(tt.want); !reflect.DeepEqual(a, b) {
				t.Errorf("got\n%s", got.String())
			}
		})
	}
}

func TestShowStatus(t *testing.T) {
	answer := ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != statusPath || answer == "":
			http.NotFound(w, r)
		default:
			_, _ = io.WriteString(w, answer)
		}
	}))
	defer server.Close()
	address := server.Listener.Addr().String()
	for _, tt := range []struct {
		name, answer, address string
		json                  bool
		want                  string // of the output, or of the error
	}{
		{"text", `{"available":true,"servers":[{"name":"srv9"}]}`, address, false, "srv9"},
		{"JSON", `{"available":true}`, address, true, `{"available":true}`},
		{"without the module", "", address, false, "does not have the module"},
		{"nonsense", "nonsense", address, false, "the answer of the admin endpoint"},
		{"nobody there", "", "127.0.0.1:1", false, "is Caddy running"},
		{"no address", "", "a:b:c", false, "a:b:c"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			answer = tt.answer
			var out strings.Builder
			if err := showStatus(&out, tt.address, tt.json); err != nil {
				out.WriteString(err.Error())
			}
			if !strings.Contains(out.String(), tt.want) {
				t.Errorf("got %q, want %q", out.String(), tt.want)
			}
		})
	}
}

func TestServeStatus(t *testing.T) {
	get := httptest.NewRecorder()
	if err := serveStatus(get, httptest.NewRequest(http.MethodGet, statusPath, nil)); err != nil {
		t.Fatal(err)
	}
	var status Status
	decoder := json.NewDecoder(get.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&status); err != nil || status.Version == "" || status.Available == (status.Reason != "") || status.Servers == nil || status.Ciphers == nil {
		t.Errorf("got %+v, %v", status, err)
	}
	post := httptest.NewRecorder()
	if err := serveStatus(post, httptest.NewRequest(http.MethodPost, statusPath, nil)); err == nil || post.Header().Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: %v", err)
	}
	if err := serveStatus(httptest.NewRecorder(), httptest.NewRequest(http.MethodHead, statusPath, nil)); err != nil {
		t.Errorf("HEAD: %v", err)
	}
}
