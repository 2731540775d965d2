package caddyktls

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil/caddytest"
)

// Parts of warnings and errors.
const (
	onHTTP      = "ktls has no effect on http://: give the site an https:// address, or leave ktls out"
	onErrors    = "ktls has no effect in handle_errors"
	onlyH3      = "speaks HTTP/3 only, which kernel TLS can't do: add h1 and h2 to its protocols, or leave ktls out"
	beforeTLS   = "stands before tls at :443, where it sees no TLS: put it behind tls, or leave tls out"
	lostOffload = "offload all of the site example.com at :443 has no effect"
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
	const responder = "example.com {\n\treverse_proxy localhost:8080 {\n\t\thandle_response {\n\t\t\tktls\n\t\t\tfile_server\n\t\t}\n\t}\n}\n"
	const site = "example.com {\n\tktls\n}\n"
	tests := []struct {
		name      string
		caddyfile string
		err       []string   // parts of the error; none if it is valid
		warnings  [][]string // parts of each warning
	}{
		{"none", quiet + site, nil, nil},
		{"none, without ktls", "http://example.com, https://example.com\n", nil, nil},

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
			nil, nil},
		{"http:// without ktls", quiet + "http://a.example.com {\n\trespond a\n}\n\nhttps://b.example.com {\n\tktls\n}\n", nil, nil},

		{"handle", "example.com {\n\thandle {\n\t\tktls\n\t}\n}\n", inside, nil},
		{"handle_errors", "example.com {\n\thandle_errors {\n\t\tktls\n\t}\n}\n", inside, nil},
		{"handle_errors and at the top", quiet + "example.com {\n\tktls\n\thandle_errors 4xx {\n\t\thandle {\n\t\t\tktls\n\t\t}\n\t\tfile_server\n\t}\n}\n",
			nil, [][]string{{onErrors}}},
		{"handle_errors without ktls", quiet + "example.com {\n\tktls\n\thandle_errors {\n\t\trespond ktls\n\t}\n}\n", nil, nil},
		{"named route", "&(files) {\n\tktls\n}\n\nexample.com {\n\tinvoke files\n}\n", inside, nil},
		{"named route, site without host", "&(files) {\n\tktls\n}\n\nhttps:// {\n\tinvoke files\n}\n", inside, nil},
		{"named route, with the wrapper", quiet + "&(files) {\n\tktls\n\tfile_server\n}\n\nexample.com {\n\tinvoke files\n}\n", nil, nil},
		{"handle_response", responder, inside, nil},
		{"handle_response, with the wrapper", quiet + responder, nil, nil},
		{"servers block without the wrapper", servers("max_header_size 8KiB") + site, dropped, nil},

		{"ktls before tls", servers(wrappers("ktls", "tls")) + site, []string{beforeTLS}, nil},
		{"ktls on both sides of tls", servers(wrappers("ktls", "tls", "ktls")) + site, []string{beforeTLS}, nil},
		{"proxy_protocol before tls", servers(wrappers("proxy_protocol", "tls", "ktls")) + site,
			nil, [][]string{{"the listener wrapper proxy_protocol stands before ktls", "Do without it"}}},
		{"two before tls", servers(wrappers("proxy_protocol", "http_redirect", "tls", "ktls")) + site,
			nil, [][]string{{"wrapper proxy_protocol stands"}, {"wrapper http_redirect stands"}}},
		{"proxy_protocol between tls and ktls", servers(wrappers("proxy_protocol", "ktls")) + site,
			nil, [][]string{{"wrapper proxy_protocol stands"}}},
		{"another wrapper behind ktls", servers(wrappers("ktls", "http_redirect")) + site, nil, nil},

		{"second ktls", "example.com {\n\tktls\n\thandle /a/* {\n\t\tktls\n\t}\n}\n",
			nil, [][]string{{"a second ktls has no effect", `"hosts":["example.com"]`, `"place":"apps/http/servers/srv0/routes/0/handle/0/routes/`}}},
		{"second ktls, the first has a matcher", "example.com {\n\tktls /a/*\n\tktls {\n\t\tmin_size 1MiB\n\t}\n}\n", nil, nil},
		{"wrapper alone", servers(wrappers("ktls")) + "example.com {\n\tfile_server\n}\n",
			nil, [][]string{{"the listener wrapper ktls has no effect", `":443"`}}},
		{"wrapper alone, with offload all", servers(wrappers("ktls {", "\toffload all", "}")) + "example.com {\n\tfile_server\n}\n", nil, nil},
		{"behind encode", "{\n\torder ktls after encode\n}\n\nexample.com {\n\tencode\n\tktls\n}\n",
			nil, [][]string{{"ktls stands behind encode", `"hosts":["example.com"]`}}},
		{"behind file_server", "{\n\torder ktls last\n}\n\nexample.com {\n\tfile_server\n\tktls\n}\n",
			nil, [][]string{{"ktls stands behind file_server"}}},
		{"behind a file_server for others", "{\n\torder ktls last\n}\n\nexample.com {\n\tfile_server /a/*\n\tktls /b/*\n}\n", nil, nil},
		{"Unix socket", "https://example.com {\n\tbind unix//run/caddy.sock\n\tktls\n}\n", nil, [][]string{{"no effect on a Unix socket"}}},

		{"offload lost to the servers block", quiet + handshake,
			[]string{lostOffload, "\n\tlistener_wrappers {\n\t\tktls {\n\t\t\toffload all\n\t\t}\n\t}\n"}, nil},
		{"offload lost to another value", servers(wrappers("ktls {", "\toffload all", "}")) + strings.Replace(handshake, "all", "large", 1),
			[]string{"offload large of the site example.com at :443 has no effect"}, nil},
		{"offload lost in handle", "example.com {\n\tktls\n\thandle {\n\t\tktls {\n\t\t\toffload all\n\t\t}\n\t}\n}\n",
			[]string{lostOffload, "inside handle", "give offload at the top of the site block"}, nil},
		{"offload the same in both", servers(wrappers("ktls {", "\toffload all", "}")) + handshake, nil, nil},
		{"offload in the servers block", servers(wrappers("ktls {", "\toffload all", "}")) + site, nil, nil},
		{"offload twice", strings.Replace(handshake, "example.com", "b.example.com", 1) + "\n" + site, []string{":443", "share one server", "\tb.example.com: offload all", "\texample.com: offload large (the default)"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for range 3 { // Caddy provisions servers in any order
				log, err := validate(t, tt.caddyfile)
				wantError(t, err, tt.err)
				wantServers(t, 0)
				if tt.err == nil {
					wantWarnings(t, log, tt.warnings)
				}
			}
		})
	}
}

// validate validates a Caddyfile, and returns the log too.
func validate(t *testing.T, caddyfile string) (log string, err error) {
	t.Helper()
	config := caddytest.Config(t, caddyfile)
	file := filepath.Join(t.TempDir(), "log")
	config.Logging.Logs["default"].WriterRaw = json.RawMessage(fmt.Sprintf(`{"output":"file","filename":%q}`, file))
	config.Logging.Logs["default"].EncoderRaw = json.RawMessage(`{"format":"json"}`)
	err = caddy.Validate(config)
	return testutil.ReadFile(t, file), err
}

// A site that sends no files, as far as can be seen, is told so.
func TestNoFiles(t *testing.T) {
	for _, tt := range []struct {
		handlers string
		want     bool
	}{
		{"file_server /a/*\n}\n\nb.example.com {\n\trespond hello", false},
		{"respond hello\n}\n\nb.example.com {\n\tfile_server", true},
		{"respond hello", true},
		{"header A b\n\thandle {\n\t\trespond hello\n\t}", true},
		{"file_server", false},
		{"handle /a/* {\n\t\tfile_server\n\t}\n\trespond hello", false},
		{"reverse_proxy localhost:8080", false},
	} {
		log, err := validate(t, "example.com {\n\tktls\n\t"+tt.handlers+"\n}\n")
		if got := strings.Contains(log, "no handler of the site sends files"); err != nil || got != tt.want {
			t.Errorf("%s: %v, %v, want %v", tt.handlers, err, got, tt.want)
		}
	}

	// Without a host and with a matcher, what sends files is in a route of its own.
	log, err := validate(t, "https:// {\n\tktls /a/*\n\tfile_server\n}\n")
	if err != nil || strings.Contains(log, "no handler of the site sends files") {
		t.Errorf("%v, %s", err, log)
	}
}

func TestHTTP3ByDefault(t *testing.T) {
	byDefault := []string{"h1", "h2", "h3"}
	for _, tt := range []struct {
		name   string
		server *caddyhttp.Server
		want   bool
	}{
		{"default", &caddyhttp.Server{Listen: []string{":443"}, Protocols: byDefault}, true},
		{"off", &caddyhttp.Server{Listen: []string{":443"}, Protocols: []string{"h1", "h2"}}, false},
		{"on purpose", &caddyhttp.Server{Listen: []string{":443"}, Protocols: []string{"h3", "h1"}}, false},
		{"by bind", &caddyhttp.Server{Listen: []string{":443"}, Protocols: byDefault, ListenProtocols: [][]string{{"h1"}}}, false},
		{"Unix socket", &caddyhttp.Server{Listen: []string{"unix//run/caddy.sock"}, Protocols: byDefault}, false},
	} {
		if got := http3ByDefault(tt.server); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

// wantWarnings checks that the module's entries in a log are one warning for
// each element of want, in any order, with all its parts.
func wantWarnings(t *testing.T, log string, want [][]string) {
	t.Helper()
	var got []string
	for line := range strings.Lines(log) {
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

	// A handler right in a route with a host comes from no Caddyfile.
	config = caddytest.Config(t, "example.com\n")
	config.AppsRaw = caddy.ModuleMap{"http": json.RawMessage(`{"servers": {"s": {"listen": [":443"],
		"routes": [{"match": [{"host": ["example.com"]}], "handle": [{"handler": "ktls"}]}]}}}`)}
	wantError(t, caddy.Validate(config), []string{"of the site example.com at :443", "In JSON give the server the listener wrapper ktls"})
}
