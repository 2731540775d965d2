//go:build !linux

package caddyktls

import "runtime"

// checkMachine tries nothing.
func checkMachine() facts {
	return facts{
		OS: runtime.GOOS, Kernel: kernelFacts{Faults: []fault{}}, Go: builtBy(runtime.Version()),
		Ciphers: []cipherFacts{}, HTTP: []httpFacts{}, Interfaces: []string{},
	}
}
