package doctor

import (
	"slices"
	"testing"
)

func TestBuiltBy(t *testing.T) {
	for _, test := range []struct {
		version string
		fault   bool
	}{
		{"go1.26.8", false},
		{"go1.26.6", false},
		{"go1.26.5", true},
		{"go1.26.0", true},
		{"go1.26", true},
		{"go1.26rc1", true},
		{"go1.25.20", true},
		{"go1.9.7", true},
		{"go1.27.0", false},
		{"go1.30", false},
		{"go1.26.10", false},
		{"go1.26.5 X:nodwarf5", true},
		{"go1.26.6 X:nodwarf5", false},
		{"go1.26.5-company", true},
		{"go1.26.6-company", false},
		{"devel go1.26-9b1a2c3 Mon Jun 1 10:00:00 2026 +0000", true},
		{"devel go1.28-9b1a2c3 Mon Jun 1 10:00:00 2026 +0000", false},
		{"devel +9b1a2c3", false},
		{"gccgo", false},
		{"", false},
	} {
		facts, want := builtBy(test.version), []string(nil)
		if test.fault {
			want = []string{"CVE-2026-56862"}
		}
		if got := identities(facts.Faults); !slices.Equal(got, want) || facts.Faults == nil || facts.Version != test.version {
			t.Errorf("%q: %+v, want %v", test.version, facts, want)
		}
	}
}
