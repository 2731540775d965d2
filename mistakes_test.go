package caddyktls

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil/caddytest"
)

// Parts of warnings and errors.
const (
	http3Is     = "HTTP/3 is on, and browsers move to it"
	http3Remedy = "put both protocols h1 h2 and listener_wrappers { ktls } into the global servers block"
	http3WhyNot = "HTTP/3 is better on networks that lose packets"
	onHTTP      = "ktls has no effect on http://: give the site an https:// address, or leave ktls out"
	onErrors    = "ktls has no effect in handle_errors"
	onlyH3      = "speaks HTTP/3 only, which kernel TLS can't do: add h1 and h2 to its protocols, or leave ktls out"
	beforeTLS   = "stands before tls at :443, where it sees no TLS: put it behind tls, or leave tls out"
	lostOffload = "offload all of a site at :443 has no effect"
)

// servers is a global servers block that turns HTTP/3 off, with further lines.
func servers(lines ...string) string {
	return "{\n\tservers {\n\t\tprotocols h1 h2\n\t\t" + strings.Join(lines, "\n\t\t") + "\n\t}\n}\n\n"
}

// wrappers are the lines of listener_wrappers.
func wrappers(lines ...string) string {
	return "listener_wrappers {\n\t\t\t" + strings.Join(lines, "\n\t\t\t") + "\n\t\t}"
}

// Each mistake is an error or a warning that says what to do, and what is none
// is neither. All goes the way of `caddy validate`.
func TestMistakes(t *testing.T) {
	quiet := servers(wrappers("ktls"))
	const handshake = "example.com {\n\tktls {\n\t\toffload all\n\t}\n}\n"
	const site = "example.com {\n\tktls\n}\n"
	tests := []struct {
		name      string
		caddyfile string
		err       []string   // parts of the error; none if it is valid
		warnings  [][]string // parts of each warning
	}{
		{"none", quiet + site, nil, nil},
		{"none, without ktls", "http://example.com, https://example.com\n", nil, nil},

		{"HTTP/3", site, nil, [][]string{{http3Is, http3Remedy, http3WhyNot, `":443"`}}},
		{"HTTP/3, with offload all", handshake, nil, [][]string{{http3Is, "listener_wrappers { ktls { offload all } }"}}},
		{"HTTP/3, two sites on a server", site + "\nb.example.com {\n\tktls /a\n\tktls /b\n}\n", nil, [][]string{{http3Is}}},
		{"HTTP/3, two servers", site + "\nb.example.com:8443 {\n\tktls\n}\n", nil, [][]string{{http3Is}, {http3Is}}},
		{"HTTP/3, named in the servers block", strings.Replace(quiet, "h2", "h2 h3", 1) + site, nil, [][]string{{http3Is}}},
		{"HTTP/3, off by bind", "example.com {\n\tbind 127.0.0.1 {\n\t\tprotocols h1 h2\n\t}\n\tktls\n}\n", nil, nil},
		{"HTTP/3, on by bind", quiet + "example.com {\n\tbind 127.0.0.1 {\n\t\tprotocols h1 h3\n\t}\n\tktls\n}\n", nil, [][]string{{http3Is}}},
		{"HTTP/3, at one of two addresses", "example.com {\n\tbind 127.0.0.1 {\n\t\tprotocols h1\n\t}\n\tbind 127.0.0.2\n\tktls\n}\n",
			nil, [][]string{{http3Is}}},
		{"HTTP/3, Unix socket", "https://example.com {\n\tbind unix//run/caddy.sock\n\tktls\n}\n", nil, nil},

		{"protocols h3 with the wrapper", strings.Replace(quiet, "h1 h2", "h3", 1) + site, []string{":443", onlyH3}, nil},
		{"protocols h3 without the wrapper", "{\n\tservers {\n\t\tprotocols h3\n\t}\n}\n\n" + site, []string{":443", onlyH3}, nil},
		{"protocols h3 by bind", "example.com {\n\tbind 127.0.0.1 {\n\t\tprotocols h3\n\t}\n\tktls\n}\n", []string{onlyH3}, nil},
		{"protocols h3, http:// too", "{\n\tservers {\n\t\tprotocols h3\n\t}\n}\n\nhttp://example.com, https://example.com {\n\tktls\n}\n",
			[]string{":443", onlyH3}, nil},

		{"http://", "http://example.com {\n\tktls\n}\n", nil, [][]string{{onHTTP, `":80"`, `"hosts":["example.com"]`}}},
		{"http://, all hosts", ":8080 {\n\tktls /large/*\n}\n", nil, [][]string{{onHTTP, `":8080"`, `"hosts":["*"]`}}},
		{"http://, two sites", "http://a.example.com {\n\tktls\n}\n\nhttp://b.example.com {\n\tktls\n}\n",
			nil, [][]string{{onHTTP, `"hosts":["a.example.com","b.example.com"]`}}},
		{"http:// beside another https://", quiet + "http://a.example.com {\n\tktls\n}\n\nhttps://b.example.com {\n\tktls\n}\n",
			nil, [][]string{{onHTTP, `"hosts":["a.example.com"]`}}},
		{"http:// in handle", "http://example.com {\n\thandle {\n\t\tktls\n\t}\n}\n", nil, [][]string{{onHTTP}}},
		{"http:// and https://", quiet + "http://example.com, https://example.com {\n\tktls\n}\n", nil, nil},
		{"http:// and https://, all hosts", quiet + "http://, https:// {\n\tktls\n}\n", nil, nil},
		{"http:// and https:// by import", quiet + "(large) {\n\tktls\n}\n\nhttp://example.com {\n\timport large\n}\n\nhttps://example.com {\n\timport large\n}\n",
			nil, nil},
		{"http:// and https://, servers block for http://", "{\n\tservers :80 {\n\t\tmax_header_size 8KiB\n\t}\n}\n\nhttp://example.com, https://example.com {\n\tktls\n}\n",
			nil, [][]string{{http3Is}}},
		{"http:// without ktls", quiet + "http://a.example.com {\n\trespond a\n}\n\nhttps://b.example.com {\n\tktls\n}\n", nil, nil},

		{"handle", "example.com {\n\thandle {\n\t\tktls\n\t}\n}\n", missing, nil},
		{"handle_errors", "example.com {\n\thandle_errors {\n\t\tktls\n\t}\n}\n", missing, nil},
		{"handle_errors and at the top", quiet + "example.com {\n\tktls\n\thandle_errors 4xx {\n\t\thandle {\n\t\t\tktls\n\t\t}\n\t\tfile_server\n\t}\n}\n",
			nil, [][]string{{onErrors}}},
		{"handle_errors without ktls", quiet + "example.com {\n\tktls\n\thandle_errors {\n\t\trespond ktls\n\t}\n}\n", nil, nil},
		{"named route", "&(files) {\n\tktls\n}\n\nexample.com {\n\tinvoke files\n}\n", missing, nil},
		{"servers block without the wrapper", servers("max_header_size 8KiB") + site, missing, nil},

		{"ktls before tls", servers(wrappers("ktls", "tls")) + site, []string{beforeTLS}, nil},
		{"ktls on both sides of tls", servers(wrappers("ktls", "tls", "ktls")) + site, []string{beforeTLS}, nil},
		{"proxy_protocol before tls", servers(wrappers("proxy_protocol", "tls", "ktls")) + site,
			nil, [][]string{{"the listener wrapper proxy_protocol stands before ktls", "Do without it"}}},
		{"two before tls", servers(wrappers("proxy_protocol", "http_redirect", "tls", "ktls")) + site,
			nil, [][]string{{"wrapper proxy_protocol stands"}, {"wrapper http_redirect stands"}}},
		{"proxy_protocol between tls and ktls", servers(wrappers("proxy_protocol", "ktls")) + site,
			nil, [][]string{{"wrapper proxy_protocol stands"}}},
		{"another wrapper behind ktls", servers(wrappers("ktls", "http_redirect")) + site, nil, nil},

		{"offload lost to the servers block", quiet + handshake,
			[]string{lostOffload, "put offload all into its listener_wrappers { ktls }"}, nil},
		{"offload lost to another value", servers(wrappers("ktls {", "\toffload all", "}")) + strings.Replace(handshake, "all", "large", 1),
			[]string{"offload large of a site at :443 has no effect"}, nil},
		{"offload lost in handle", "example.com {\n\tktls\n\thandle {\n\t\tktls {\n\t\t\toffload all\n\t\t}\n\t}\n}\n",
			[]string{lostOffload, "inside handle", "give offload at the top of the site block"}, nil},
		{"offload the same in both", servers(wrappers("ktls {", "\toffload all", "}")) + handshake, nil, nil},
		{"offload in the servers block", servers(wrappers("ktls {", "\toffload all", "}")) + site, nil, nil},
		{"offload twice", strings.Replace(handshake, "example.com", "b.example.com", 1) + "\n" + site, []string{":443", "share one server", "offload"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for range 3 { // Caddy provisions servers in any order
				config := caddytest.Config(t, tt.caddyfile)
				logFile := filepath.Join(t.TempDir(), "log")
				config.Logging.Logs["default"].WriterRaw = json.RawMessage(fmt.Sprintf(`{"output":"file","filename":%q}`, logFile))
				config.Logging.Logs["default"].EncoderRaw = json.RawMessage(`{"format":"json"}`)
				wantError(t, caddy.Validate(config), tt.err)
				wantServers(t, 0)
				if tt.err == nil {
					wantWarnings(t, logFile, tt.warnings)
				}
			}
		})
	}
}

// wantWarnings checks that the module's entries in a log are one warning for
// each element of want, in any order, with all its parts.
func wantWarnings(t *testing.T, logFile string, want [][]string) {
	t.Helper()
	var got []string
	for line := range strings.Lines(testutil.ReadFile(t, logFile)) {
		entry := testutil.ParseJSON[struct{ Level, Logger string }](t, line)
		if entry.Level != "info" && strings.HasSuffix(entry.Logger, ".ktls") {
			got = append(got, line)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d warnings, want %d: %q", len(got), len(want), got)
	}
	for _, parts := range want {
		if !slices.ContainsFunc(got, func(line string) bool {
			return !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(line, part) })
		}) {
			t.Errorf("no warning with %q: %q", parts, got)
		}
	}
}

// In JSON there may be blanks, and the modules are named one by one.
func TestMistakesJSON(t *testing.T) {
	config := caddytest.Config(t, "example.com\n")
	config.AppsRaw = caddy.ModuleMap{"http": json.RawMessage(`{"servers": {"s": {"listen": [":443"],
		"listener_wrappers": [{ "offload" :"large", "wrapper" : "ktls" }, { "wrapper" : "tls" }],
		"routes": [{"handle": [{ "handler" : "ktls" }]}]}}}`)}
	wantError(t, caddy.Validate(config), []string{beforeTLS})

	config = caddytest.Config(t, "example.com\n")
	config.AppsRaw = caddy.ModuleMap{"http": json.RawMessage(`{"servers": {"s": {"listen": [":443"],
		"listener_wrappers": [{ "wrapper" : "ktls" }],
		"routes": [{"handle": [{ "handler" : "ktls", "offload": "always" }]}]}}}`)}
	wantError(t, caddy.Validate(config), []string{`large or all, not "always"`})
}
