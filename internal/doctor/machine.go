package doctor

import (
	"bufio"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
)

// What has become of the kernel's module tls.
const (
	moduleLoaded       = "loaded"
	moduleBuiltIn      = "built_in"
	moduleNotLoaded    = "not_loaded"
	moduleNotInstalled = "not_installed"
	moduleGone         = "modules_gone" // no modules for the kernel that runs, but for another
)

// findModule looks for the module tls. root is the file system's, release is
// what uname -r prints.
func findModule(root fs.FS, release string) string {
	folder := "lib/modules/" + release
	switch {
	case hasLine(root, "proc/modules", func(line string) bool { return strings.HasPrefix(line, "tls ") }):
		return moduleLoaded
	case exists(root, "proc/net/tls_stat"),
		hasLine(root, "proc/sys/net/ipv4/tcp_available_ulp", func(line string) bool {
			return slices.Contains(strings.Fields(line), "tls")
		}),
		hasLine(root, folder+"/modules.builtin", isTLSModule):
		return moduleBuiltIn
	case exists(root, folder+"/modules.dep"):
		if !hasLine(root, folder+"/modules.dep", isTLSModule) {
			return moduleNotInstalled
		}
	case exists(root, "proc/version") && !exists(root, "proc/modules"): // no CONFIG_MODULES
		return moduleNotInstalled
	case !exists(root, folder):
		if others, err := fs.ReadDir(root, "lib/modules"); err == nil && len(others) > 0 {
			return moduleGone
		}
	}
	return moduleNotLoaded
}

// isTLSModule knows the module in modules.dep and modules.builtin, where its name
// may end with .ko.zst or the like.
func isTLSModule(line string) bool {
	file, _, _ := strings.Cut(line, ":")
	return strings.HasPrefix(path.Base(file), "tls.ko")
}

// loadedAtBoot looks where modules-load.d(5) says, and in Debian's older
// /etc/modules. A file in a folder that comes first replaces one of the same
// name in a later folder.
func loadedAtBoot(root fs.FS) bool {
	isTLS := func(line string) bool { return strings.TrimSpace(line) == "tls" }
	seen := make(map[string]bool)
	for _, folder := range []string{"etc", "run", "usr/local/lib", "usr/lib"} {
		files, _ := fs.Glob(root, folder+"/modules-load.d/*.conf")
		for _, file := range files {
			name := path.Base(file)
			if !seen[name] && hasLine(root, file, isTLS) {
				return true
			}
			seen[name] = true
		}
	}
	return hasLine(root, "etc/modules", isTLS)
}

// findContainer tells what kind of container this is, or an empty string. It
// knows Docker, Podman, what systemd knows, and what the names of control groups
// give away; cgroup v2 most often hides them.
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

func exists(root fs.FS, name string) bool {
	_, err := fs.Stat(root, name)
	return err == nil
}

func hasLine(root fs.FS, name string, match func(line string) bool) bool {
	f, err := root.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if match(lines.Text()) {
			return true
		}
	}
	return false
}

// A version is a kernel's: 6.12.107.
type version [3]int

func (v version) String() string { return fmt.Sprintf("%d.%d.%d", v[0], v[1], v[2]) }

func (v version) less(w version) bool { return slices.Compare(v[:], w[:]) < 0 }

var debianVersion = regexp.MustCompile(`\bDebian (\d+\.\d+\.\d+)-`)

// upstreamVersion returns the kernel's version if its number tells which fixes
// it has. Some distributions stay at a number and add fixes, as 6.8.0-45-generic
// says; Debian, where it does so, tells the number in what uname -v prints.
func upstreamVersion(release, build string) (v version, ok bool) {
	if m := debianVersion.FindStringSubmatch(build); m != nil {
		release = m[1]
	}
	if n, _ := fmt.Sscanf(release, "%d.%d.%d", &v[0], &v[1], &v[2]); n < 2 {
		return v, false
	}
	number := fmt.Sprintf("%d.%d.0", v[0], v[1])
	return v, !strings.HasPrefix(release, number+"-")
}

// recommended is the version from which on kernel TLS is recommended, see
// README.md, Kernels.
var recommended = version{6, 6, 0}
