package harness

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// An Access is a line of an access log.
type Access struct {
	Logger   string
	Message  string `json:"msg"`
	Status   int
	Size     int64
	Duration float64 // seconds
	Request  struct {
		RemoteIP   string `json:"remote_ip"`
		RemotePort string `json:"remote_port"`
		Proto      string
		URI        string
		Headers    http.Header
	}
	Header http.Header `json:"resp_headers"`

	// The module's placeholders, where log_append adds them under these names.
	KTLSStatus string `json:"ktls_status"`
	KTLSBytes  any    `json:"ktls_bytes"` // not a number without the module
}

// Query returns the query of the request.
func (a Access) Query() string {
	_, query, _ := strings.Cut(a.Request.URI, "?")
	return query
}

// Sent returns how many bytes went out by sendfile(2), as the module's placeholder says.
func (a Access) Sent() int64 {
	n, _ := a.KTLSBytes.(float64)
	return int64(n)
}

// Took returns how long the handler has taken.
func (a Access) Took() time.Duration { return time.Duration(a.Duration * float64(time.Second)) }

// Length returns the length of the body that was to be sent, or 0 if the header does not
// say.
func (a Access) Length() int64 {
	n, _ := strconv.ParseInt(a.Header.Get("Content-Length"), 10, 64)
	return n
}

// Accesses returns the lines of the access log in a log.
func (l Log) Accesses() []Access {
	data, _ := os.ReadFile(string(l))
	var all []Access
	for line := range bytes.Lines(data) {
		var a Access
		if json.Unmarshal(line, &a) == nil && strings.HasPrefix(a.Logger, "http.log.access") && a.Message == "handled request" {
			all = append(all, a)
		}
	}
	return all
}

// AwaitAccesses waits until so many requests are in the access log, and returns them.
func (l Log) AwaitAccesses(t testing.TB, n int) []Access {
	t.Helper()
	var all []Access
	testutil.Eventually(t, "all requests are in the access log", func() error {
		if all = l.Accesses(); len(all) < n {
			return fmt.Errorf("%d of %d are", len(all), n)
		}
		return nil
	})
	if len(all) > n {
		t.Errorf("%d requests are in the access log, want %d", len(all), n)
	}
	return all
}

// AwaitAccess waits until the access log has a request with a query, and returns it.
func (l Log) AwaitAccess(t testing.TB, query string) (found Access) {
	t.Helper()
	testutil.Eventually(t, "the request "+query+" is in the access log", func() error {
		for _, a := range l.Accesses() {
			if a.Query() == query {
				found = a
				return nil
			}
		}
		return fmt.Errorf("it is not")
	})
	return found
}
