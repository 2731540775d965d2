package doctor

import (
	"io/fs"
	"strings"
)

// findContainer returns the kind of container around this program, or an empty string. It
// recognises Docker, Podman and what systemd recognises. It also looks at the names of
// control groups, which cgroup v2 hides in most cases.
func findContainer(root fs.FS) string {
	if kind, err := fs.ReadFile(root, "run/systemd/container"); err == nil {
		return strings.TrimSpace(string(kind))
	}
	switch {
	case exists(root, ".dockerenv"):
		return "docker"
	case exists(root, "run/.containerenv"):
		return "podman"
	}
	groups, _ := fs.ReadFile(root, "proc/1/cgroup")
	for _, kind := range []string{"kubepods", "docker", "libpod", "containerd", "lxc"} {
		if strings.Contains(string(groups), kind) {
			return kind
		}
	}
	return ""
}

func (r *report) judgeContainer() {
	if r.Container != "" {
		r.add("container", stateNote, r.Container+": the kernel is the host's, and its modules are loaded on the host")
	}
}
