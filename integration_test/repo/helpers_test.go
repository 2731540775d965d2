// Package repo_test tests what the repository has beside code: documents, examples,
// files for deployment, and what the packages depend on.
//
// It needs no kernel TLS. Every name of a file is relative to the repository's root,
// to which TestMain goes.
package repo_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-ktls/caddy-ktls"
)

func TestMain(m *testing.M) {
	if err := os.Chdir("../.."); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func readFile(t testing.TB, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func parseJSON(t testing.TB, s string) (v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

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

// testAdapt compares what a Caddyfile is adapted to, and validates it.
func testAdapt(t *testing.T, caddyfile, want string) {
	t.Helper()
	got, err := adapt(caddyfile)
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("adapted to\n%swant\n%s", got, want)
	}
	if err := caddy.Validate(testConfig(t, caddyfile)); err != nil {
		t.Error(err)
	}
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

// privateConfig is testConfig for JSON.
func privateConfig(t testing.TB, config string) *caddy.Config {
	t.Helper()
	var c caddy.Config
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		t.Fatal(err)
	}
	return private(t, &c)
}
