package fileserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/filestorage"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

func init() { caddy.RegisterModule(chainHandler{}) }

// chainServes is what a chainHandler serves, with the writer that Caddy gives it.
var chainServes atomic.Pointer[caddyhttp.HandlerFunc]

type chainHandler struct{}

func (chainHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test_chain", New: func() caddy.Module { return new(chainHandler) }}
}

func (chainHandler) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	return (*chainServes.Load())(w, r)
}

// withCaddy runs a Caddy that serves serve without TLS, over HTTP/1.1 and HTTP/2. The
// server's other settings are JSON.
func withCaddy(t testing.TB, settings string, serve caddyhttp.HandlerFunc) (url string) {
	t.Helper()
	address := testutil.FreeAddress(t)
	chainServes.Store(&serve)
	config := new(caddy.Config)
	testutil.Must(t, json.Unmarshal(fmt.Appendf(nil, `{
		"admin": {"disabled": true, "config": {"persist": false}},
		"logging": {"logs": {"default": {"level": "ERROR"}}},
		"storage": {"module": "file_system", "root": %q},
		"apps": {"http": {"servers": {"test": {
			"listen": [%q], "protocols": ["h1", "h2c"], %s
			"automatic_https": {"disable": true},
			"routes": [{"handle": [{"handler": "test_chain"}]}]
		}}}}
	}`, t.TempDir(), address, settings), config))
	testutil.Must(t, caddy.Run(config))
	t.Cleanup(func() { testutil.Must(t, caddy.Stop()) })
	return "http://" + address
}

// chainClient speaks HTTP/1.1, or HTTP/2 without TLS.
func chainClient(t testing.TB, http2 bool) *http.Client {
	t.Helper()
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetHTTP1(!http2)
	transport.Protocols.SetUnencryptedHTTP2(http2)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}
