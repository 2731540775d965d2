package integration_test

import (
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
)

// Data races of stock Caddy are told from those of the module.
func TestStockRace(t *testing.T) {
	const begin, end = "WARNING: DATA RACE\nRead at 0x00c001128fa0 by goroutine 28:\n", "()\n      file.go:1 +0x1\n"
	for function, stock := range map[string]bool{
		"github.com/caddyserver/caddy/v2/modules/caddytls.(*TLS).Start":                                                                         true,
		"github.com/caddy-ktls/caddy-ktls/integration_test_test.TestMain":                                                                       true,
		"github.com/caddy-ktls/caddy-ktls/integration_test/harness.Main":                                                                        true,
		"github.com/caddy-ktls/caddy-ktls/internal/http2body.(*Sender).Send":                                                                    false,
		"github.com/caddy-ktls/caddy-ktls/ktls.(*Conn).Write":                                                                                   false,
		"github.com/caddy-ktls/caddy-ktls/fileserver.(*writer).ReadFrom.func1":                                                                  false,
		"github.com/caddy-ktls/caddy-ktls.(*Handler).ServeHTTP":                                                                                 false,
		"github.com/caddy-ktls/caddy-ktls/ktls.(*recorder).Write()\n  crypto/tls.(*Conn).sendAlertLocked":                                       false,
		"github.com/caddy-ktls/caddy-ktls/ktls.(*recorder).Write()\n  crypto/tls.(*Conn).sendAlertLocked()\n  crypto/tls.(*Conn).readHandshake": true,
	} {
		if harness.IsStockRace(begin+"  "+function+end) != stock {
			t.Errorf("%s: want stock %v", function, stock)
		}
	}
}

func TestInClear(t *testing.T) {
	c := harness.NewCaddy(t)
	file := c.Root.AddFile(t, "f", 100_000).Content
	other := c.Root.AddFile(t, "g", 100_000).Content
	if i := harness.InClear(other, file); i != -1 {
		t.Errorf("found at %d in another file", i)
	}
	for _, from := range []int{0, 1, 31, 33, 70_001, len(file) - 64} {
		wire := append(other[:1000:1000], file[from:from+64]...)
		if i := harness.InClear(append(wire, other...), file); i < 1000 || i >= 1032 {
			t.Errorf("64 bytes from %d on are at 1000, found at %d", from, i)
		}
	}
}
