package doctor

import (
	"testing"
	"testing/fstest"
)

func TestFindContainer(t *testing.T) {
	tests := []struct {
		name string
		root fstest.MapFS
		want string
	}{
		{"none", files("proc/1/cgroup", "0::/init.scope\n"), ""},
		{"docker", files(".dockerenv", ""), "docker"},
		{"podman", files("run/.containerenv", "engine=podman"), "podman"},
		{"systemd", files("run/systemd/container", "systemd-nspawn\n"), "systemd-nspawn"},
		{"kubernetes", files("proc/1/cgroup", "0::/kubepods/burstable/pod1/x\n"), "kubepods"},
		{"lxc", files("proc/1/cgroup", "2:cpu:/lxc/x\n"), "lxc"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := findContainer(test.root); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}
