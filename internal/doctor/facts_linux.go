package doctor

import (
	"crypto/tls"
	"errors"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// findFacts tries what can be tried, and looks at the rest. What it can't find out
// it leaves empty.
func findFacts(selfTest func() []HTTPFault) facts {
	root := os.DirFS("/")
	f := facts{OS: runtime.GOOS, Go: builtBy(runtime.Version()), Container: findContainer(root)}
	f.Kernel.Faults = []knownFault{}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		f.Kernel.Release = unix.ByteSliceToString(name.Release[:])
		if v, ok := upstreamVersion(f.Kernel.Release, unix.ByteSliceToString(name.Version[:])); ok {
			f.Kernel.Version, f.Kernel.Faults = v.String(), kernelFaultsOf(v)
		}
	}
	// The check may load the module.
	before := findModule(root, f.Kernel.Release)
	for _, t := range ktls.Check() {
		c := cipherFacts{
			TLS: strings.TrimPrefix(tls.VersionName(t.Version), "TLS "), Cipher: t.Cipher,
			Works: t.Err == nil, SendFile: t.SendFile, Rekey: t.Rekey,
		}
		if t.Err != nil {
			c.Error = t.Err.Error()
			c.broken, c.inert = !errors.Is(t.Err, errors.ErrUnsupported), t.Inert
		}
		f.Ciphers = append(f.Ciphers, c)
	}
	f.Module = moduleFacts{State: findModule(root, f.Kernel.Release), AtBoot: loadedAtBoot(root)}
	f.Module.LoadedByCheck = f.Module.State == moduleLoaded && before != moduleLoaded
	f.HTTP = append([]HTTPFault{}, selfTest()...)
	f.Interfaces, _ = interfacesWith(featureTLS)
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		// Go raises the soft limit to the hard one when it starts.
		f.FileDescriptors = limit.Max
	}
	return f
}
