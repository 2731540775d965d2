package caddyktls

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// testConfig adapts a Caddyfile to a configuration that keeps what it stores in
// a temporary folder, listens for no admin and logs nothing.
func testConfig(t testing.TB, caddyfile string) *caddy.Config {
	t.Helper()
	config, err := adapt(caddyfile)
	if err != nil {
		t.Fatal(err)
	}
	var c caddy.Config
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		t.Fatal(err)
	}
	return private(t, &c)
}

// private changes a configuration as testConfig says.
func private(t testing.TB, c *caddy.Config) *caddy.Config {
	t.Helper()
	persist := false
	c.Admin = &caddy.AdminConfig{Disabled: true, Config: &caddy.ConfigSettings{Persist: &persist}}
	storage, err := json.Marshal(map[string]string{"module": "file_system", "root": filepath.Join(t.TempDir(), "data")})
	if err != nil {
		t.Fatal(err)
	}
	c.StorageRaw = storage
	c.Logging = &caddy.Logging{Logs: map[string]*caddy.CustomLog{
		"default": {BaseLog: caddy.BaseLog{WriterRaw: json.RawMessage(`{"output":"discard"}`)}},
	}}
	return c
}

// wantServers checks how many servers with the listener wrapper are remembered.
func wantServers(t testing.TB, want int) {
	t.Helper()
	wrappedServers.mu.Lock()
	defer wrappedServers.mu.Unlock()
	if got := len(wrappedServers.servers); got != want {
		t.Errorf("%d servers are remembered, want %d", got, want)
	}
}

// missing are the parts of the error for a handler without listener wrapper.
var missing = []string{
	"the listener wrapper ktls is missing",
	"global servers block", "listener_wrappers { ktls }",
	"handle, route, handle_errors or a named route", "at the top of the site block",
}

func TestValidate(t *testing.T) {
	tests := []struct {
		name      string
		caddyfile string
		want      []string // parts of the error; none if it is valid
	}{
		{"site", `example.com {
	ktls
	file_server
}
`, nil},
		{"servers block that matches all", `{
	servers {
		max_header_size 64KiB
	}
}

example.com {
	ktls
}
`, append([]string{"of the server at :443"}, missing...)},
		{"servers block that matches the address", `{
	servers :8443 {
		max_header_size 64KiB
	}
}

example.com:8443 {
	ktls
}
`, append([]string{"of the server at :8443"}, missing...)},
		{"servers block with other wrappers", `{
	servers {
		listener_wrappers {
			http_redirect
			tls
		}
	}
}

example.com {
	ktls
}
`, missing},
		{"servers block with the wrapper", `{
	servers {
		listener_wrappers {
			ktls
		}
	}
}

example.com {
	ktls
}
`, nil},
		{"servers block with several wrappers", `{
	servers {
		listener_wrappers {
			http_redirect
			tls
			ktls {
				offload all
			}
		}
	}
}

example.com {
	ktls
}
`, nil},
		{"servers block for another address", `{
	servers :8443 {
		max_header_size 64KiB
	}
}

example.com {
	ktls
}
`, nil},
		{"in handle", `example.com {
	handle {
		ktls
	}
}
`, missing},
		{"in handle_path", `example.com {
	handle_path /large/* {
		ktls
	}
}
`, missing},
		{"in handle_errors", `example.com {
	handle_errors {
		ktls
	}
}
`, missing},
		{"in a named route", `&(files) {
	ktls
	file_server
}

example.com {
	invoke files
}
`, missing},
		{"at the top with a matcher", `example.com {
	ktls /large/*
	handle /large/* {
		file_server
	}
}
`, nil},
		{"in handle and at the top", `example.com {
	ktls /large/*
	handle {
		ktls
	}
}
`, nil},
		{"imported twice", `(large) {
	ktls
}

example.com {
	import large
	import large
}
`, nil},
		{"several sites", `a.example.com {
	ktls {
		offload all
	}
}

b.example.com {
	ktls {
		offload all
		min_size 1MiB
	}
}

c.example.com {
	respond c
}
`, nil},
		{"default named on one site", `a.example.com {
	ktls {
		offload large
	}
}

b.example.com {
	ktls
}
`, nil},
		{"two values of offload", `a.example.com {
	ktls
}

b.example.com {
	ktls {
		offload all
	}
}
`, []string{":443", "share one server", "offload"}},
		{"two values of offload on two ports", `a.example.com {
	ktls
}

b.example.com:8443 {
	ktls {
		offload all
	}
}
`, nil},
		{"plain HTTP", `http://example.com {
	ktls
}
`, nil},
		{"plain HTTP and HTTPS", `http://example.com, https://example.com {
	ktls
}
`, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := caddy.Validate(testConfig(t, tt.caddyfile))
			switch {
			case err == nil && len(tt.want) > 0:
				t.Error("no error")
			case err != nil && len(tt.want) == 0:
				t.Error(err)
			}
			for _, part := range tt.want {
				if err != nil && !strings.Contains(err.Error(), part) {
					t.Errorf("error %q lacks %q", err, part)
				}
			}
			wantServers(t, 0)
		})
	}
}

func TestValidateJSON(t *testing.T) {
	config := func(wrapper, handler string) *caddy.Config {
		c := testConfig(t, "example.com\n")
		c.AppsRaw = caddy.ModuleMap{"http": json.RawMessage(fmt.Sprintf(
			`{"servers":{"s":{"listen":[":443"],"listener_wrappers":[%s],"routes":[{"handle":[%s]}]}}}`, wrapper, handler))}
		return c
	}
	tests := []struct {
		name             string
		wrapper, handler string
		want             string // part of the error; empty if it is valid
	}{
		{"defaults", `{"wrapper":"ktls"}`, `{"handler":"ktls"}`, ""},
		{"options", `{"wrapper":"ktls","offload":"all"}`, `{"handler":"ktls","min_size":1}`, ""},
		{"wrapper alone", `{"wrapper":"ktls"}`, `{"handler":"static_response"}`, ""},
		{"handler alone", ``, `{"handler":"ktls"}`, "the listener wrapper ktls is missing"},
		{"offload", `{"wrapper":"ktls","offload": "always"}`, `{"handler":"ktls"}`, `large or all, not "always"`},
		{"min_size", `{"wrapper":"ktls"}`, `{"handler":"ktls","min_size":-1}`, "min_size must not be negative: -1"},
		{"unknown field", `{"wrapper":"ktls","min_size":1}`, `{"handler":"ktls"}`, "unknown field"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := caddy.Validate(config(tt.wrapper, tt.handler))
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
			wantServers(t, 0)
		})
	}
}

// A configuration may be loaded again and again: metrics are registered with
// each, the servers of the former ones are forgotten, and it serves on.
func TestReload(t *testing.T) {
	root := t.TempDir()
	body := make([]byte, 3*65536+1)
	_, _ = rand.New(rand.NewSource(1)).Read(body)
	if err := os.WriteFile(filepath.Join(root, "file"), body, 0o600); err != nil {
		t.Fatal(err)
	}
	address := freeAddress(t)
	client, certificate, key := testCertificate(t)
	config, err := json.Marshal(testConfig(t, fmt.Sprintf(`{
	auto_https disable_redirects
}

https://%s {
	bind 127.0.0.1
	tls %s %s
	ktls
	root %s
	file_server
}
`, address, certificate, key, root)))
	if err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
		wantServers(t, 0)
	})
	for range 3 {
		if err := caddy.Load(config, true); err != nil {
			t.Fatal(err)
		}
		wantServers(t, 1)
		wantMetric(t, "caddy_ktls_sendfile_bytes_total")
		wantBody(t, client, "https://"+address+"/file", body)
	}

	// A configuration that is refused leaves the one that runs as it is.
	bad := testConfig(t, "https://"+address+" {\n\thandle {\n\t\tktls\n\t}\n}\n")
	if err := caddy.Run(bad); err == nil {
		t.Error("no error")
	}
	wantServers(t, 1)
	wantBody(t, client, "https://"+address+"/file", body)
}

// freeAddress returns an address that nobody listens at.
func freeAddress(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// testCertificate returns the files of a certificate for 127.0.0.1 and its key,
// and a client that trusts it.
func testCertificate(t testing.TB) (client *http.Client, certificate, key string) {
	t.Helper()
	server := httptest.NewTLSServer(nil)
	t.Cleanup(server.Close)
	pair := server.TLS.Certificates[0]
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	return server.Client(), write("certificate.pem", "CERTIFICATE", pair.Certificate[0]), write("key.pem", "PRIVATE KEY", der)
}

func wantBody(t testing.TB, client *http.Client, url string, want []byte) {
	t.Helper()
	response, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusOK || !bytes.Equal(got, want) {
		t.Errorf("GET %s: %s, %d bytes with SHA-256 %x, want %d with %x",
			url, response.Status, len(got), sha256.Sum256(got), len(want), sha256.Sum256(want))
	}
}

// wantMetric checks that the running configuration has a metric.
func wantMetric(t testing.TB, name string) {
	t.Helper()
	ctx := caddy.ActiveContext()
	families, err := ctx.GetMetricsRegistry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == name {
			return
		}
	}
	t.Errorf("no metric %s", name)
}
