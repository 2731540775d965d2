package fileserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/filestorage"
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
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	address := ln.Addr().String()
	must(t, ln.Close())
	chainServes.Store(&serve)
	config := new(caddy.Config)
	must(t, json.Unmarshal(fmt.Appendf(nil, `{
		"admin": {"disabled": true, "config": {"persist": false}},
		"logging": {"logs": {"default": {"level": "ERROR"}}},
		"storage": {"module": "file_system", "root": %q},
		"apps": {"http": {"servers": {"test": {
			"listen": [%q], "protocols": ["h1", "h2c"], %s
			"automatic_https": {"disable": true},
			"routes": [{"handle": [{"handler": "test_chain"}]}]
		}}}}
	}`, t.TempDir(), address, settings), config))
	must(t, caddy.Run(config))
	t.Cleanup(func() { must(t, caddy.Stop()) })
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

// What a small file takes of memory over HTTP/2 behind Caddy's own writers, below ours
// and above: less than the buffer of io.Copy. Go's client and server count too, since
// they run meanwhile.
func TestMemoryOfSmallFiles(t *testing.T) {
	const requests = 101
	name, body := randomFile(t, 2000)
	for _, accessLog := range []bool{false, true} {
		t.Run(fmt.Sprintf("access log %v", accessLog), func(t *testing.T) {
			settings := ""
			if accessLog {
				settings = `"logs": {},`
			}
			allocated := make(chan uint64, requests)
			url := withCaddy(t, settings, func(w http.ResponseWriter, r *http.Request) error {
				w, _ = Wrap(w, r, &Options{MinSize: DefaultMinSize})
				_, idle := caddyhttp.IdleTimeoutsFromContext(r.Context())
				below := idle.ResponseWriter.(*writer).ResponseWriter
				if name := typeName(below); name != caddyPackage+".readDeadlineWriter" || bottomOf(below) == nil {
					t.Errorf("%s below", name)
				}
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				http.ServeFile(w, r, name)
				runtime.ReadMemStats(&after)
				allocated <- after.TotalAlloc - before.TotalAlloc
				return nil
			})
			client := chainClient(t, true)
			var all []uint64
			for range requests {
				response, err := client.Get(url)
				must(t, err)
				got, err := io.ReadAll(response.Body)
				response.Body.Close()
				if err != nil || !bytes.Equal(got, body) || response.ProtoMajor != 2 {
					t.Fatalf("%d bytes, %v, %s", len(got), err, response.Proto)
				}
				all = append(all, <-allocated)
			}
			// A collection, and the race detector, take buffers out of pools now
			// and then. That does not move the median.
			slices.Sort(all)
			if median := all[len(all)/2]; median > 16<<10 {
				t.Errorf("%d bytes are allocated for a response", median)
			}
		})
	}
}

// Nor does a file that is read directly, whose WriteTo would bring a buffer of its own.
func TestMemoryOfPlainFile(t *testing.T) {
	const copies = 101
	name, body := randomFile(t, 2000)
	f, err := os.Open(name)
	must(t, err)
	defer f.Close()
	var all []uint64
	for range copies {
		var below standInWriter
		w := &newResponse(&below, &http.Request{ProtoMajor: 2}, nil, &Options{MinSize: DefaultMinSize}).writer
		_, err = f.Seek(0, io.SeekStart)
		must(t, err)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		n, err := w.ReadFrom(f)
		runtime.ReadMemStats(&after)
		if err != nil || n != int64(len(body)) || int(below) != len(body) {
			t.Fatalf("%d bytes, %v", n, err)
		}
		all = append(all, after.TotalAlloc-before.TotalAlloc)
	}
	slices.Sort(all)
	if median := all[len(all)/2]; median > 16<<10 {
		t.Errorf("%d bytes are allocated for a copy", median)
	}
}
