package benchmark

import (
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-ktls/caddy-ktls/internal/telemetry"
)

// A machine says where something was measured, and by which programs.
type machine struct {
	CPU    string   `json:"cpu"` // model
	CPUs   int      `json:"cpus"`
	AES    []string `json:"aes"` // the processor's features for AES, as the kernel names them
	Kernel string   `json:"kernel"`
	Arch   string   `json:"arch"`
	Caddy  string   `json:"caddy"`
	Go     string   `json:"go"`
	Module string   `json:"module"` // version
	Date   string   `json:"date"`
}

// aesFeatures are features of processors that make encryption fast.
var aesFeatures = []string{"aes", "vaes", "pclmulqdq", "vpclmulqdq", "avx2", "avx512f", "pmull"}

func thisMachine() machine {
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	version, _ := caddy.Version()
	m := machine{
		CPUs: runtime.GOMAXPROCS(0), AES: []string{}, Kernel: strings.TrimSpace(string(release)), Arch: runtime.GOARCH,
		Caddy: version, Go: runtime.Version(), Module: telemetry.ModuleVersion(), Date: time.Now().Format(time.DateOnly),
	}
	var flags []string
	m.CPU, flags = processor()
	for _, name := range aesFeatures {
		if slices.Contains(flags, name) {
			m.AES = append(m.AES, name)
		}
	}
	return m
}
