package harness

import "os"

// limitCalls makes system calls of this Caddy fail, or lie, if the test has asked for
// that.
func limitCalls() error {
	if kind := os.Getenv(envSandbox); kind != "" {
		return beInSandbox(kind)
	}
	if file := os.Getenv(envInjection); file != "" {
		return beInjected(file)
	}
	return nil
}
