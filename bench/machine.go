package main

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"
)

// A Machine is what a run ran on, and with.
type Machine struct {
	CPU      string            `json:"cpu"`
	Flags    []string          `json:"flags"` // those of cpuFlags that the CPU has
	Cores    int               `json:"cores"`
	MemoryKB string            `json:"memory"`
	Kernel   string            `json:"kernel"`
	Versions map[string]string `json:"versions"`
}

// cpuFlags are those of /proc/cpuinfo on which the speed of encryption and of
// copying depends.
var cpuFlags = []string{
	"aes", "vaes", "pclmulqdq", "vpclmulqdq", "avx", "avx2", "avx512f", "avx512vl", "sha_ni", "erms", "fsrm", "hypervisor",
}

func thisMachine() Machine {
	m := Machine{Cores: runtime.NumCPU(), Kernel: kernelRelease(), Versions: map[string]string{}}
	info, _ := os.ReadFile("/proc/cpuinfo")
	m.CPU, m.Flags = parseCPU(string(info))
	memory, _ := os.ReadFile("/proc/meminfo")
	first, _, _ := strings.Cut(string(memory), "\n")
	m.MemoryKB = strings.TrimSpace(strings.TrimPrefix(first, "MemTotal:"))
	return m
}

// parseCPU reads the model and flags of the first CPU in /proc/cpuinfo.
func parseCPU(info string) (model string, flags []string) {
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(name) {
		case "model name":
			model = strings.TrimSpace(value)
		case "flags":
			has := strings.Fields(value)
			for _, flag := range cpuFlags {
				if slices.Contains(has, flag) {
					flags = append(flags, flag)
				}
			}
			return model, flags
		}
	}
	return model, flags
}

func kernelRelease() string {
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return strings.TrimSpace(string(release))
}

var versionNumber = regexp.MustCompile(`v?\d+\.\d+[^\s,()]*`)

// version returns the version number in the first line that a program prints,
// or an empty string if it can't be run.
func version(ctx context.Context, program string, arguments ...string) string {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	output, err := exec.CommandContext(ctx, program, arguments...).CombinedOutput()
	if err != nil {
		return ""
	}
	return versionNumber.FindString(string(output))
}

// addVersions adds the versions of the programs that run where the servers do.
func (m *Machine) addVersions(ctx context.Context, p programs) {
	for name, command := range map[string][]string{
		"h2load":  {"h2load", "--version"},
		"openssl": {"openssl", "version"},
		"strace":  {"strace", "--version"},
		"caddy":   {p.caddy, "version"},
		"nginx":   {p.nginx, "-v"},
	} {
		if v := version(ctx, command[0], command[1:]...); v != "" {
			m.Versions[name] = v
		}
	}
	m.Versions["go"] = strings.TrimPrefix(runtime.Version(), "go")
}
