package caddyktls

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil/caddytest"
)

// These are the parts of the error for a handler without listener wrapper: a servers block
// has dropped it, or the directive is nested.
var (
	dropped = []string{"the listener wrapper ktls is missing", "because a global servers block", "\n\tlistener_wrappers {\n\t\tktls\n\t}\n"}
	inside  = []string{"the listener wrapper ktls is missing", "because ktls stands inside", "at the top of the site block"}
)

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
`, append([]string{"of the site example.com at :443"}, dropped...)},
		{"servers block that matches the address", `{
	servers :8443 {
		max_header_size 64KiB
	}
}

example.com:8443 {
	ktls
}
`, append([]string{"of the site example.com at :8443"}, dropped...)},
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
`, dropped},
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
`, inside},
		{"in handle_path", `example.com {
	handle_path /large/* {
		ktls
	}
}
`, inside},
		{"in handle_errors", `example.com {
	handle_errors {
		ktls
	}
}
`, inside},
		{"in a named route", `&(files) {
	ktls
	file_server
}

example.com {
	invoke files
}
`, inside},
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
			wantError(t, caddy.Validate(caddytest.Config(t, tt.caddyfile)), tt.want)
			wantServers(t, 0)
		})
	}
}

func TestValidateJSON(t *testing.T) {
	config := func(wrapper, handler string) *caddy.Config {
		c := caddytest.Config(t, "example.com\n")
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

// wantServers checks how many servers with the listener wrapper are remembered.
func wantServers(t testing.TB, want int) {
	t.Helper()
	wrappedServers.mu.Lock()
	defer wrappedServers.mu.Unlock()
	if got := len(wrappedServers.servers); got != want {
		t.Errorf("%d servers are remembered, want %d", got, want)
	}
}

// wantError checks that an error has all parts, or that there is none.
func wantError(t *testing.T, err error, parts []string) {
	t.Helper()
	if (err != nil) != (len(parts) > 0) {
		t.Errorf("error %v, want one with %q", err, parts)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q lacks %q", err, part)
		}
	}
}
