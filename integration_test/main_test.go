// Package integration_test runs a Caddy with this module and watches from
// outside, by its metrics, its log and the kernel's counters, who does the work.
//
// The test binary is that Caddy: it starts itself again. So it runs anywhere
// by itself, in the virtual machine for one.
package integration_test

import (
	"fmt"
	"os"
	"strconv"
	"testing"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/smallstep/certificates/acme"

	_ "github.com/caddy-ktls/caddy-ktls"
)

const (
	// envCaddy makes the test binary be Caddy.
	envCaddy = "KTLS_TEST_CADDY"
	// envChallengePort is the port where Caddy's acme_server looks for
	// clients that answer tls-alpn-01 challenges, instead of 443.
	envChallengePort = "KTLS_TEST_CHALLENGE_PORT"
	// envRequired, if not empty, makes every skipped test fail that is
	// skipped for want of kernel TLS or of a client program.
	envRequired = "KTLS_REQUIRED"
	// envLong, if not empty, asks for the long forms of tests.
	envLong = "KTLS_LONG"
	// envKernel names the kernel of a run in which each of the longest tests
	// takes its turn on one kernel only.
	envKernel = "KTLS_KERNEL"
)

// long tells whether tests take their long forms.
var long = os.Getenv(envLong) != ""

func TestMain(m *testing.M) {
	if os.Getenv(envCaddy) == "" {
		os.Exit(runTests(m))
	}
	if port := os.Getenv(envChallengePort); port != "" {
		n, err := strconv.Atoi(port)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		acme.InsecurePortTLSALPN01 = n
	}
	caddycmd.Main()
}

func runTests(m *testing.M) int {
	end, err := countTaken()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer end()
	return m.Run()
}
