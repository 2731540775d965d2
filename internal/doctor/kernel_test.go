package doctor

import (
	"testing"
)

func TestUpstreamVersion(t *testing.T) {
	for _, test := range []struct {
		release, build string
		want           version
		ok             bool
	}{
		{"6.12.107+deb13-cloud-amd64", "#1 SMP Debian 6.12.107-1 (2026-09-01)", version{6, 12, 107}, true},
		{"6.1.0-33-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.133-1 (2025-04-10)", version{6, 1, 133}, true},
		{"6.8.0-45-generic", "#45-Ubuntu SMP", version{6, 8, 0}, false},
		{"5.14.0-427.el9.x86_64", "#1 SMP", version{5, 14, 0}, false},
		{"6.11.0", "#1 SMP", version{6, 11, 0}, true},
		{"7.0-rc3", "#1 SMP", version{7, 0, 0}, true},
		{"6.16.8-arch1-1", "#1 SMP", version{6, 16, 8}, true},
		{"", "", version{}, false},
	} {
		if got, ok := upstreamVersion(test.release, test.build); got != test.want || ok != test.ok {
			t.Errorf("%q, %q: %v, %v; want %v, %v", test.release, test.build, got, ok, test.want, test.ok)
		}
	}
}
