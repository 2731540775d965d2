// Package harness is what the tests of integration_test are built on: a Caddy with this
// module as a process of its own, the clients that ask it for files, and ways to see from
// outside who does the work, by Caddy's metrics, its log, and the kernel's counters.
//
// It is for tests only. It links all of Caddy, because the test binary is that Caddy: it
// starts itself again, see [Main]. So it runs anywhere on its own, for example in a
// virtual machine.
package harness

import (
	"fmt"
	"os"
	"strconv"
	"testing"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard" // the modules of a Caddy
	"github.com/smallstep/certificates/acme"

	_ "github.com/caddy-ktls/caddy-ktls" // the module that is tested
	"github.com/caddy-ktls/caddy-ktls/internal/testutil/asynccipher"
)

// Environment variables that say how to run the tests, besides [testutil.EnvRequired].
const (
	// EnvLong, if not empty, asks for the long forms of tests.
	EnvLong = "KTLS_LONG"
	// EnvKernel names the kernel of a run in which each of the longest tests takes
	// its turn on one kernel only.
	EnvKernel = "KTLS_KERNEL"
)

const (
	// envCaddy makes the test binary run as Caddy.
	envCaddy = "KTLS_TEST_CADDY"
	// EnvChallengePort is the port where Caddy's acme_server looks for clients that
	// answer tls-alpn-01 challenges, instead of 443.
	EnvChallengePort = "KTLS_TEST_CHALLENGE_PORT"
)

// Long reports whether tests take their long forms.
func Long() bool { return os.Getenv(EnvLong) != "" }

// ShortOrLong returns many if tests take their long forms, and few otherwise.
func ShortOrLong(few, many int) int {
	if Long() {
		return many
	}
	return few
}

// Main is for TestMain: it runs the tests or, in a process that a test has started, runs
// as Caddy. It returns the exit code.
func Main(m *testing.M) int {
	if os.Getenv(envCaddy) == "" {
		return runTests(m)
	}
	if err := prepareCaddy(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	caddycmd.Main()
	return 0
}

func runTests(m *testing.M) int {
	if err := asynccipher.UseIfAsked(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	end, err := countTaken()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer end()
	return m.Run()
}

// prepareCaddy prepares the process of a Caddy as its test has asked for in the
// environment.
func prepareCaddy() error {
	if port := os.Getenv(EnvChallengePort); port != "" {
		n, err := strconv.Atoi(port)
		if err != nil {
			return err
		}
		acme.InsecurePortTLSALPN01 = n
	}
	return limitCalls()
}
