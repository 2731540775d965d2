package harness

import (
	"bytes"
	"os"
	"regexp"
	"strings"
	"testing"
)

// ours matches a function of this module in a report of the race detector.
var ours = regexp.MustCompile(`github\.com/caddy-ktls/caddy-ktls(/ktls|/fileserver|/internal/\w+)?\.`)

// IsStockRace reports whether stock Caddy has this data race too. Caddy 2.11 and
// certmagic have some when a certificate is renewed, or found, while a configuration is
// loaded.
func IsStockRace(report string) bool {
	return !ours.MatchString(report) ||
		// crypto/tls answers a handshake message that is too long with an alert, and does
		// not wait for whoever is writing.
		strings.Contains(report, "crypto/tls.(*Conn).sendAlertLocked()\n") &&
			strings.Contains(report, "crypto/tls.(*Conn).readHandshake()\n")
}

// Inspect fails the test for a panic or a data race in the log. It shows the log if the
// test has failed.
func (l Log) Inspect(t testing.TB) {
	t.Helper()
	data, _ := os.ReadFile(string(l))
	for _, word := range []string{"panic", "fatal error:"} {
		if bytes.Contains(data, []byte(word)) {
			t.Errorf("Caddy's log has %q", word)
		}
	}
	for part := range strings.SplitSeq(string(data), "==================\n") {
		if strings.HasPrefix(part, "WARNING: DATA RACE") && !IsStockRace(part) {
			t.Errorf("Caddy's log has a\n%s", part)
		}
	}
	if t.Failed() {
		t.Logf("end of Caddy's log:\n%s", l.Tail())
	}
}
