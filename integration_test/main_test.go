// Package integration_test runs a Caddy with this module and watches from outside, by
// its metrics, its log and the kernel's counters, who does the work.
//
// A test file is named for what it tests: tls_, http1_ and http2_ for the protocols,
// client_ for clients that do unusual things, file_ for what is sent, handler_ for
// Caddy's other handlers, server_ for the life of a configuration, kernel_ for what
// the kernel and a sandbox may do, operator_ for what an operator sees, and load_.
// What the tests are made with is package harness.
package integration_test

import (
	"os"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }
