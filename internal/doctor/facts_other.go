//go:build !linux

package doctor

import "runtime"

// moduleState says nothing.
func moduleState() string { return "" }

// findFacts tries nothing.
func findFacts(func() []HTTPFault) facts {
	return facts{
		OS: runtime.GOOS, Kernel: kernelFacts{Faults: []knownFault{}}, Go: builtBy(runtime.Version()),
		Ciphers: []cipherFacts{}, HTTP: []HTTPFault{}, Interfaces: []string{},
	}
}
