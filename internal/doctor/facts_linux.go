package doctor

import (
	"crypto/fips140"
	"crypto/tls"
	"errors"
	"io/fs"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// findFacts tries what can be tried, and looks at the rest. It leaves empty what it can't
// find out.
func findFacts(selfTest func() []HTTPFault) facts {
	root := os.DirFS("/")
	f := facts{OS: runtime.GOOS, Kernel: findKernel(root), Go: builtBy(runtime.Version()), Container: findContainer(root)}
	f.Go.FIPS = fips140.Enabled()
	before := findModule(root, f.Kernel.Release)
	f.Ciphers = tryCiphers() // which may load the module
	after := findModule(root, f.Kernel.Release)
	f.Module = moduleFacts{
		State:         after,
		LoadedByCheck: after == moduleLoaded && before != moduleLoaded,
		AtBoot:        loadedAtBoot(root),
	}
	f.HTTP = append([]HTTPFault{}, selfTest()...)
	f.Interfaces, _ = interfacesWith(featureTLS)
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		// Go raises the soft limit to the hard one when it starts.
		f.FileDescriptors = limit.Max
	}
	return f
}

// moduleState returns the state of the module tls.
func moduleState() string {
	root := os.DirFS("/")
	return findModule(root, findKernel(root).Release)
}

// findKernel asks the kernel for its version, and whether it is in FIPS mode.
func findKernel(root fs.FS) kernelFacts {
	f := kernelFacts{Faults: []knownFault{}}
	f.FIPS = hasLine(root, "proc/sys/crypto/fips_enabled", func(line string) bool { return strings.TrimSpace(line) == "1" })
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return f
	}
	f.Release = unix.ByteSliceToString(name.Release[:])
	if v, ok := upstreamVersion(f.Release, unix.ByteSliceToString(name.Version[:])); ok {
		f.Version, f.Faults = v.String(), kernelFaultsOf(v)
	}
	return f
}

// tryCiphers tries each cipher that the kernel may know.
func tryCiphers() (ciphers []cipherFacts) {
	for _, t := range ktls.Check() {
		c := cipherFacts{
			TLS: strings.TrimPrefix(tls.VersionName(t.Version), "TLS "), Cipher: t.Cipher,
			Works: t.Err == nil, SendFile: t.SendFile, Rekey: t.Rekey,
		}
		if t.Err != nil {
			c.Error = t.Err.Error()
			c.broken, c.inert = !errors.Is(t.Err, errors.ErrUnsupported), t.Inert
			if !c.broken {
				c.cause = Cause(t.Err)
			}
		}
		ciphers = append(ciphers, c)
	}
	return ciphers
}
