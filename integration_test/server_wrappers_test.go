package integration_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	caddyserver "github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

func init() { caddyserver.RegisterModule(copyingWrapper{}) }

// A copyingWrapper hands on a copy of what is written, as a listener wrapper may
// that shapes or counts traffic.
type copyingWrapper struct{}

func (copyingWrapper) CaddyModule() caddyserver.ModuleInfo {
	return caddyserver.ModuleInfo{ID: "caddy.listeners.test_copying", New: func() caddyserver.Module { return new(copyingWrapper) }}
}

func (copyingWrapper) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }

func (copyingWrapper) WrapListener(ln net.Listener) net.Listener {
	return testutil.WrappingListener{Listener: ln, Wrap: func(c net.Conn) net.Conn { return copyingConn{c} }}
}

type copyingConn struct{ net.Conn }

func (c copyingConn) Write(p []byte) (int, error) { return c.Conn.Write(bytes.Clone(p)) }

// ConnectionState is what Caddy asks wrappers to hand on.
func (c copyingConn) ConnectionState() tls.ConnectionState {
	return c.Conn.(interface{ ConnectionState() tls.ConnectionState }).ConnectionState()
}

// A listener wrapper that copies has one response fail, and no byte that isn't the
// file's gets out. The operator is told what to do, and all later files arrive.
func TestWrapperThatCopies(t *testing.T) {
	harness.RequireKernelTLS(t)
	c, f := harness.StartWithFile(t, harness.Large, `
{
	servers {
		listener_wrappers {
			ktls {
				offload all
			}
			test_copying
		}
	}
}
https://localhost:{$PORT} {
	ktls
	root {$ROOT}
	file_server
}`)
	client := c.ProtocolClient(t, harness.HTTP1)
	harness.ReadPartial(client, c.URL("/f")).WantBeginning(t, f) // even of the header
	for range 3 {
		harness.WantFile(t, client, c.URL("/f"), f)
	}
	errors := 0
	for _, entry := range c.Log.Entries() {
		if entry.Text("level") == "error" && entry.Text("logger") == "caddy.listeners.ktls" {
			errors++
			if message := entry.Message(); !strings.Contains(message, "HTTP/1.1") || !strings.Contains(message, "test_copying") {
				t.Error(message)
			}
		}
	}
	if errors != 1 {
		t.Errorf("%d errors are logged, want 1", errors)
	}
}

// Other listener wrappers, in any order, make a difference only to whether
// connections can be offloaded. proxy_protocol and http_redirect belong before
// TLS; behind it they do what they do without the module, right or wrong.
func TestWrapperOrders(t *testing.T) {
	harness.OnKernel(t, "7.2")
	harness.RequireKernelTLS(t)
	offloaded := harness.SentTimes(2, 2, 2*harness.Large)
	offloaded["connections:not_needed"] = 1
	notTCP := harness.Counts{"connections:not_tcp": 3, "responses:not_offloadable": 2}
	hidden := harness.Counts{"connections:not_needed": 3} // net/http does not see that it is TLS
	testWrapperOrders(t, harness.NewCaddy(t), []wrapperOrder{
		{"tls ktls", "tls", offloaded},
		{"tls ktls ktls", "tls", offloaded},
		{"proxy_protocol tls ktls", "proxy_protocol tls", notTCP},
		{"http_redirect tls ktls", "http_redirect tls", notTCP},
		{"proxy_protocol http_redirect tls ktls", "proxy_protocol http_redirect tls", notTCP},
		{"tls proxy_protocol ktls", "tls proxy_protocol", harness.Counts{}},
		{"tls ktls proxy_protocol", "tls proxy_protocol", hidden},
		{"tls http_redirect ktls", "tls http_redirect", harness.Counts{}},
		{"tls ktls http_redirect", "tls http_redirect", hidden},
	})
	results.Fault(t, "Server life", "Other listener wrappers", "proxy_protocol and http_redirect before and behind tls and ktls",
		"as without the module; not_tcp where they stand before tls")
}

// caddy-l4's listener wrapper is another one.
func TestLayer4(t *testing.T) {
	harness.OnKernel(t, "6.1")
	harness.RequireKernelTLS(t)
	harness.RequireProgram(t, "caddy-l4")
	c := harness.NewCaddy(t)
	c.Program = "caddy-l4"
	testWrapperOrders(t, c, []wrapperOrder{
		{"layer4 tls ktls", "layer4 tls", harness.Counts{"connections:not_tcp": 3, "responses:not_offloadable": 2}},
		{"tls layer4 ktls", "tls layer4", harness.Counts{}},
	})
	results.Fault(t, "Server life", "Listener wrapper of caddy-l4", "layer4 before and behind tls", "as without the module; not_tcp where it stands before tls")
}

// A wrapperOrder is a list of listener wrappers, and the same without the module.
type wrapperOrder struct {
	wrappers, without string
	want              harness.Counts // of requests over HTTP/1.1, HTTP/2 and without TLS
}

// wrapperOptions are those of listener wrappers that need some.
var wrapperOptions = strings.NewReplacer(
	"proxy_protocol", "proxy_protocol {\nallow 127.0.0.0/8\n}",
	"layer4", "layer4 {\n@bad remote_ip 192.0.2.0/24\nroute @bad {\nclose\n}\n}",
)

// testWrapperOrders compares what clients see.
func testWrapperOrders(t *testing.T, c *harness.Caddy, tests []wrapperOrder) {
	c.Root.AddFile(t, "f", harness.Large)
	var global, sites strings.Builder
	ports := map[string]string{}
	add := func(wrappers string) {
		if ports[wrappers] != "" {
			return
		}
		port := testutil.FreePorts(t, 1)[0]
		ports[wrappers] = port
		// Caddy puts tls first by itself, and refuses to be told so.
		list := strings.TrimPrefix(wrappers+" ", "tls ")
		list = wrapperOptions.Replace(strings.ReplaceAll(list, " ", "\n"))
		if list != "" {
			fmt.Fprintf(&global, "servers 127.0.0.1:%s {\nlistener_wrappers {\n%s}\n}\n", port, list)
		}
		directive := ""
		if strings.Contains(wrappers, "ktls") {
			directive = "ktls"
		}
		fmt.Fprintf(&sites, "https://localhost:%s {\n%s\nheader Seen \"{http.request.scheme} {http.request.remote.host}\"\nroot {$ROOT}\nfile_server\n}\n", port, directive)
	}
	add("tls")
	for _, test := range tests {
		add(test.wrappers)
		add(test.without)
	}
	c.Start(t, "{\n"+global.String()+"}\n"+sites.String())
	known := map[string]string{}
	stock := func(protocol, wrappers string) string {
		key := protocol + " " + wrappers
		if known[key] == "" {
			known[key] = seen(t, c, protocol, ports[wrappers], wrappers)
		}
		return known[key]
	}
	for _, test := range tests {
		t.Run(test.wrappers, func(t *testing.T) {
			before := c.Metrics(t)
			for _, protocol := range []string{harness.HTTP1, harness.HTTP2, "none"} {
				got, want := seen(t, c, protocol, ports[test.wrappers], test.wrappers), stock(protocol, test.without)
				if protocol == "none" && test.want["connections:not_needed"] == 3 {
					want = stock(protocol, "tls") // the module answers even so
				}
				if got != want {
					t.Errorf("%s: %s, without the module %s", protocol, got, want)
				}
			}
			c.Expect(t, before, test.want)
		})
	}
}

// seen asks for /f, over a protocol of TLS or without TLS, and says what comes.
func seen(t testing.TB, c *harness.Caddy, protocol, port, wrappers string) string {
	t.Helper()
	site := c.Site
	site.Port = port
	client := site.Client(t, site.Quick(t, protocol))
	defer client.CloseIdleConnections()
	if strings.HasPrefix(wrappers, "proxy_protocol") {
		harness.Over(client, func() (net.Conn, error) { return dialProxied(site) })
	}
	scheme := "https"
	if protocol == "none" {
		scheme = "http"
	}
	resp, err := harness.Try(t, client, http.MethodGet, scheme+"://localhost:"+port+"/f")
	if err != nil {
		return "an error"
	}
	return fmt.Sprintf("%s %s, %s, %v, %s", resp.Proto, resp.Status, resp.Header.Get("Seen"), resp.Digest,
		strings.ReplaceAll(resp.Header.Get("Location"), port, "PORT"))
}
