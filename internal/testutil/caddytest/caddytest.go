// Package caddytest has what tests with Caddy share. A test that adapts a Caddyfile must
// import the modules that the Caddyfile names.
package caddytest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// Adapt turns a file named Caddyfile into JSON as `caddy adapt --pretty` does. It treats
// a warning as an error, for example a file that `caddy fmt` would change.
func Adapt(caddyfile string) (string, error) {
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

// WantAdapted compares what a Caddyfile is adapted to, and validates it.
func WantAdapted(t testing.TB, caddyfile, want string) {
	t.Helper()
	got, err := Adapt(caddyfile)
	testutil.Must(t, err)
	if got != want {
		t.Errorf("adapted to\n%swant\n%s", got, want)
	}
	if err := caddy.Validate(Config(t, caddyfile)); err != nil {
		t.Error(err)
	}
}

// Config adapts a Caddyfile to a configuration that keeps its storage in a temporary
// folder, has no admin endpoint and logs nothing.
func Config(t testing.TB, caddyfile string) *caddy.Config {
	t.Helper()
	config, err := Adapt(caddyfile)
	testutil.Must(t, err)
	return ParseConfig(t, config)
}

// ParseConfig is Config for JSON.
func ParseConfig(t testing.TB, config string) *caddy.Config {
	t.Helper()
	c := testutil.ParseJSON[*caddy.Config](t, config)
	persist := false
	c.Admin = &caddy.AdminConfig{Disabled: true, Config: &caddy.ConfigSettings{Persist: &persist}}
	storage, err := json.Marshal(map[string]string{"module": "file_system", "root": filepath.Join(t.TempDir(), "data")})
	testutil.Must(t, err)
	c.StorageRaw = storage
	c.Logging = &caddy.Logging{Logs: map[string]*caddy.CustomLog{
		"default": {BaseLog: caddy.BaseLog{WriterRaw: json.RawMessage(`{"output":"discard"}`)}},
	}}
	return c
}

// IdleWriter returns what Caddy's server puts around net/http's writer.
func IdleWriter(w http.ResponseWriter, maxChunk int, timeout time.Duration) *caddyhttp.IdleTimeoutWriter {
	return &caddyhttp.IdleTimeoutWriter{
		ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w},
		Ctrl:                  http.NewResponseController(w),
		Deadline:              caddyhttp.IdleDeadline{Start: time.Now(), Timeout: timeout},
		MaxChunk:              maxChunk,
		Logger:                zap.NewNop(),
	}
}
