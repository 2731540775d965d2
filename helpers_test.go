package caddyktls

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
)

// adapt turns a file named Caddyfile into JSON as `caddy adapt --pretty` does.
// It takes a warning, such as that of a file which `caddy fmt` would change, for
// an error.
func adapt(caddyfile string) (string, error) {
	config, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt(
		[]byte(caddyfile), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return "", err
	}
	for _, w := range warnings {
		err = errors.Join(err, fmt.Errorf("%s, at %s:%d", w.Message, w.File, w.Line))
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, config, "", "\t"); err != nil {
		return "", err
	}
	return pretty.String() + "\n", err
}

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

func readFile(t testing.TB, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// openFile opens a new file with that content.
func openFile(t testing.TB, content []byte) *os.File {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
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
