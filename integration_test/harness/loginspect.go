package harness

import (
	"bytes"
	"os"
	"regexp"
	"strings"
	"testing"
)

// ours is a function of this module in a report of the race detector.
var ours = regexp.MustCompile(`github\.com/caddy-ktls/caddy-ktls(/ktls|/fileserver|/internal/\w+)?\.`)

// IsStockRace reports whether stock Caddy has a data race too. Caddy 2.11 and
// certmagic have some when a certificate is renewed, or is there, while a
// configuration is loaded.
func IsStockRace(report string) bool {
	return !ours.MatchString(report) ||
		// crypto/tls answers a handshake message that is too long by an alert that
		// does not wait for who writes.
		strings.Contains(report, "crypto/tls.(*Conn).sendAlertLocked()\n") &&
			strings.Contains(report, "crypto/tls.(*Conn).readHandshake()\n")
}

// Inspect fails the test for a panic or a data race, and shows the log if it has
// failed.
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
