package doctor

import (
	"bufio"
	"cmp"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/caddy-ktls/caddy-ktls/ktls"
)

type moduleFacts struct {
	State         string `json:"state"`
	LoadedByCheck bool   `json:"loaded_by_check"`
	AtBoot        bool   `json:"at_boot"`
}

// States of the kernel's module tls.
const (
	moduleLoaded       = "loaded"
	moduleBuiltIn      = "built_in"
	moduleNotLoaded    = "not_loaded"
	moduleNotInstalled = "not_installed"
	moduleGone         = "modules_gone" // there are modules for another kernel, but none for the running one
)

// findModule returns the state of the module tls. root is the root of the file system,
// and release is what uname -r prints.
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

// isTLSModule reports whether a line of modules.dep or modules.builtin is about the
// module tls. There its file name may end with .ko.zst or the like.
func isTLSModule(line string) bool {
	file, _, _ := strings.Cut(line, ":")
	return strings.HasPrefix(path.Base(file), "tls.ko")
}

// loadedAtBoot reports whether the module tls is loaded at boot. It looks where
// modules-load.d(5) says, and in Debian's older /etc/modules. A file in an earlier folder
// replaces a file of the same name in a later one.
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

// moduleReasons says why there is no kernel TLS, by the module's state.
var moduleReasons = map[string]string{
	moduleNotLoaded:    "the module tls is not loaded",
	moduleNotInstalled: "this kernel has no module tls",
	moduleGone:         "the module tls is not loaded, and the running kernel's modules are gone, as after an update",
}

const (
	loadAtBoot  = "at boot: echo tls | sudo tee /etc/modules-load.d/tls.conf"
	reloadCaddy = "then have Caddy look again: sudo systemctl reload caddy, or caddy reload --force"
)

// Cause says in words why [ktls.Probe] has failed. The check says the same.
func Cause(err error) string {
	unsupported, ok := errors.AsType[*ktls.UnsupportedError](err)
	switch {
	case errors.Is(err, ktls.ErrUntrusted):
		return "the kernel took the key of a connection and did not do what it said; it gets another chance at the next reload"
	case !ok:
		return "it could not be tried"
	case unsupported.NoLayer():
		return cmp.Or(moduleReasons[moduleState()], unsupported.Cause)
	}
	return unsupported.Cause
}

func (r *report) judgeModule() {
	where := ""
	if r.Container != "" {
		where = "on the host: "
	}
	m := r.Module
	switch m.State {
	case moduleBuiltIn:
		r.add("module tls", stateOK, "part of the kernel")
	case moduleLoaded:
		text := "loaded"
		if m.LoadedByCheck {
			text += " just now, by this check"
		}
		switch {
		case r.Container != "":
			r.add("module tls", stateOK, text)
		case m.AtBoot:
			r.add("module tls", stateOK, text+", and at every boot")
		default:
			r.add("module tls", stateWarn, text+", but not at boot", loadAtBoot)
		}
	case moduleNotLoaded:
		r.add("module tls", stateFail, "not loaded", where+"sudo modprobe tls", where+loadAtBoot, reloadCaddy)
	case moduleNotInstalled:
		r.add("module tls", stateFail, "this kernel has none",
			where+"install a kernel with CONFIG_TLS, or the distribution's package with more modules; then: sudo modprobe tls",
			where+loadAtBoot, reloadCaddy)
	case moduleGone:
		r.add("module tls", stateFail, "not loaded; the running kernel's modules are gone, as after an update",
			"reboot; then: sudo modprobe tls", loadAtBoot, reloadCaddy)
	}
}
