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
		{"no server", Status{Kernel: "supported"}, `kernel TLS  supported
servers     none with the directive ktls
`},
		{"two servers", Status{Kernel: "supported", Servers: []*ServerStatus{
			{
				Name: "srv0", OffloadedNow: 2,
				Connections:   map[string]int64{"not_needed": 3, "offloaded": 1234, "cipher": 3},
				Responses:     map[string]int64{"sendfile": 10},
				SendfileBytes: 3 << 30, CopiedBytes: map[string]int64{"small": 2048, "remainder": 10, "http2": 0},
				KeyUpdates: 1, ConnectionsLost: 5,
			},
			{Name: "srv1"},
		}}, `kernel TLS  supported

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
		{"text", `{"kernel":"supported","servers":[{"name":"srv9"}]}`, address, false, "srv9"},
		{"JSON", `{"kernel":"supported"}`, address, true, `{"kernel":"supported"}`},
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
	if err := decoder.Decode(&status); err != nil || status.Kernel == "" || status.Servers == nil || status.Ciphers == nil {
		t.Errorf("got %+v, %v", status, err)
	}
	post := httptest.NewRecorder()
	if err := serveStatus(post, httptest.NewRequest(http.MethodPost, statusPath, nil)); err == nil || post.Header().Get("Allow") != http.MethodGet {
		t.Errorf("POST: %v", err)
	}
}
