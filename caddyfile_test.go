package caddyktls

import (
	"path/filepath"
	"strings"
	"testing"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil/caddytest"
)

func TestAdapt(t *testing.T) {
	files, err := filepath.Glob("testdata/*.caddyfiletest")
	if err != nil || len(files) == 0 {
		t.Fatal("no test files", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".caddyfiletest"), func(t *testing.T) {
			caddyfile, want, ok := strings.Cut(testutil.ReadFile(t, file), "----------\n")
			if !ok {
				t.Fatal("no line of ten dashes between Caddyfile and JSON")
			}
			caddytest.WantAdapted(t, caddyfile, want)
		})
	}
}

func TestAdaptErrors(t *testing.T) {
	site := func(lines ...string) string {
		return "example.com {\n\t" + strings.Join(lines, "\n\t") + "\n}\n"
	}
	global := func(lines ...string) string {
		return "{\n\tservers {\n\t\tlistener_wrappers {\n\t\t\t" + strings.Join(lines, "\n\t\t\t") +
			"\n\t\t}\n\t}\n}\n" + site("ktls")
	}
	tests := []struct {
		name      string
		caddyfile string
		want      string
	}{
		{"argument", site("ktls on"), `ktls takes no "on": the name by itself turns kernel TLS on, and where it is left out kernel TLS is off, at Caddyfile:2`},
		{"argument behind a matcher", site("ktls /large/* on"), `ktls takes no "on"`},
		{"off", site("ktls off"), `ktls takes no "off": the name by itself turns kernel TLS on`},
		{"unknown matcher", site("ktls @large"), "@large"},
		{"unknown option", site("ktls {", "\tmax_size 1MiB", "}"), "unknown option max_size, at Caddyfile:3"},
		{"duplicate min_size", site("ktls {", "\tmin_size 1MiB", "\tmin_size 1MiB", "}"),
			"option min_size is given twice, at Caddyfile:4"},
		{"duplicate offload", site("ktls {", "\toffload large", "\toffload large", "}"),
			"option offload is given twice, at Caddyfile:4"},
		{"min_size without value", site("ktls {", "\tmin_size", "}"), "after 'min_size', at Caddyfile:3"},
		{"min_size with two values", site("ktls {", "\tmin_size 1 MiB", "}"), "after '1', at Caddyfile:3"},
		{"min_size with a block", site("ktls {", "\tmin_size 1MiB {", "\t\toffload all", "\t}", "}"), "at Caddyfile:3"},
		{"min_size without a number", site("ktls {", "\tmin_size large", "}"),
			`min_size must be a size such as 64KiB or 1MB, not "large", at Caddyfile:3`},
		{"min_size of an unknown unit", site("ktls {", "\tmin_size 1mile", "}"), `not "1mile", at Caddyfile:3`},
		{"min_size negative", site("ktls {", "\tmin_size -1", "}"), `not "-1", at Caddyfile:3`},
		{"min_size zero", site("ktls {", "\tmin_size 0", "}"), `not "0", at Caddyfile:3`},
		{"min_size out of range", site("ktls {", "\tmin_size 16EiB", "}"), `not "16EiB", at Caddyfile:3`},
		{"offload without value", site("ktls {", "\toffload", "}"), "after 'offload', at Caddyfile:3"},
		{"offload with two values", site("ktls {", "\toffload large all", "}"), "after 'large', at Caddyfile:3"},
		{"offload with an unknown value", site("ktls {", "\toffload always", "}"),
			`offload must be large or all, not "always", at Caddyfile:3`},
		{"offload with an empty value", site("ktls {", `	offload ""`, "}"), `not "", at Caddyfile:3`},
		{"in route", site("route {", "\tktls", "}"),
			"a listener wrapper; put ktls at the top of the site block, with a matcher if needed"},
		{"wrapper with an argument", global("ktls handshake"), `ktls takes no "handshake"`},
		{"wrapper with an unknown option", global("ktls {", "\tmax_size 1MiB", "}"), "unknown option max_size, at Caddyfile:5"},
		{"wrapper with min_size", global("ktls {", "\tmin_size 1MiB", "}"), "unknown option min_size, at Caddyfile:5"},
		{"wrapper with an unknown value", global("ktls {", "\toffload always", "}"), `not "always", at Caddyfile:5`},
		{"wrapper with a duplicate", global("ktls {", "\toffload all", "\toffload all", "}"),
			"option offload is given twice, at Caddyfile:6"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			config, err := caddytest.Adapt(tt.caddyfile)
			if err == nil {
				t.Fatalf("no error, but\n%s", config)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q, want one with %q", err, tt.want)
			}
		})
	}
}
