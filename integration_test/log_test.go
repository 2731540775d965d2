package integration_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A logEntry is a line of Caddy's log.
type logEntry map[string]any

func (e logEntry) text(key string) string { s, _ := e[key].(string); return s }
func (e logEntry) message() string        { return e.text("msg") }

func (e logEntry) strings(key string) []string {
	list, _ := e[key].([]any)
	var texts []string
	for _, element := range list {
		texts = append(texts, fmt.Sprint(element))
	}
	return texts
}

// log returns Caddy's log so far.
func (c *caddy) log() []logEntry {
	data, _ := os.ReadFile(c.logFile)
	var entries []logEntry
	for line := range bytes.Lines(data) {
		var entry logEntry
		if json.Unmarshal(line, &entry) == nil {
			entries = append(entries, entry)
		}
	}
	return entries
}

// entries returns the log's entries with one of these messages.
func (c *caddy) entries(messages ...string) (entries []logEntry) {
	for _, entry := range c.log() {
		if slices.Contains(messages, entry.message()) {
			entries = append(entries, entry)
		}
	}
	return entries
}

// withReason returns the log's entries of this module with a reason.
func (c *caddy) withReason(reason string) (entries []logEntry) {
	for _, entry := range c.log() {
		if entry.text("reason") == reason {
			entries = append(entries, entry)
		}
	}
	return entries
}

// logTail returns the errors in the log and its end, without what the tests cause
// themselves.
func (c *caddy) logTail() string {
	const length = 6 << 10
	data, _ := os.ReadFile(c.logFile)
	var errs, tail []byte
	for line := range bytes.Lines(data) {
		switch {
		case bytes.Contains(line, []byte(`"level":"error"`)):
			errs = append(errs, line...)
		case !bytes.Contains(line, []byte(`"logger":"admin`)) && !bytes.Contains(line, []byte(`"logger":"events"`)):
			tail = append(tail, line...)
		}
	}
	return string(errs[max(0, len(errs)-length):]) + "...\n" + string(tail[max(0, len(tail)-length):])
}

// ours is a function of this module in a report of the race detector.
var ours = regexp.MustCompile(`github\.com/caddy-ktls/caddy-ktls(/ktls|/fileserver|/internal/\w+)?\.`)

// isStockRace reports whether stock Caddy has a data race too. Caddy 2.11 and
// certmagic have some when a certificate is renewed, or is there, while a
// configuration is loaded.
func isStockRace(report string) bool {
	return !ours.MatchString(report) ||
		// crypto/tls answers a handshake message that is too long by an alert that
		// does not wait for who writes.
		strings.Contains(report, "crypto/tls.(*Conn).sendAlertLocked()\n") &&
			strings.Contains(report, "crypto/tls.(*Conn).readHandshake()\n")
}

func TestStockRace(t *testing.T) {
	const begin, end = "WARNING: DATA RACE\nRead at 0x00c001128fa0 by goroutine 28:\n", "()\n      file.go:1 +0x1\n"
	for function, stock := range map[string]bool{
		"github.com/caddyserver/caddy/v2/modules/caddytls.(*TLS).Start":                                                                         true,
		"github.com/caddy-ktls/caddy-ktls/integration_test_test.TestMain":                                                                       true,
		"github.com/caddy-ktls/caddy-ktls/ktls.(*Conn).Write":                                                                                   false,
		"github.com/caddy-ktls/caddy-ktls/fileserver.(*writer).ReadFrom.func1":                                                                  false,
		"github.com/caddy-ktls/caddy-ktls/internal/telemetry.(*Responses).Done":                                                                 false,
		"github.com/caddy-ktls/caddy-ktls.(*Handler).ServeHTTP":                                                                                 false,
		"github.com/caddy-ktls/caddy-ktls/ktls.(*recorder).Write()\n  crypto/tls.(*Conn).sendAlertLocked":                                       false,
		"github.com/caddy-ktls/caddy-ktls/ktls.(*recorder).Write()\n  crypto/tls.(*Conn).sendAlertLocked()\n  crypto/tls.(*Conn).readHandshake": true,
	} {
		if isStockRace(begin+"  "+function+end) != stock {
			t.Errorf("%s: want stock %v", function, stock)
		}
	}
}

// inspectLog fails the test for a panic or a data race, and shows the log if it
// has failed.
func (c *caddy) inspectLog(t testing.TB) {
	data, _ := os.ReadFile(c.logFile)
	for _, word := range []string{"panic", "fatal error:"} {
		if bytes.Contains(data, []byte(word)) {
			t.Errorf("Caddy's log has %q", word)
		}
	}
	for part := range strings.SplitSeq(string(data), "==================\n") {
		if strings.HasPrefix(part, "WARNING: DATA RACE") && !isStockRace(part) {
			t.Errorf("Caddy's log has a\n%s", part)
		}
	}
	if t.Failed() {
		t.Logf("end of Caddy's log:\n%s", c.logTail())
	}
}

// expectReason fails the test unless the log has n entries with a reason, the
// first at level info and the others at debug.
func (c *caddy) expectReason(t testing.TB, reason string, n int) {
	t.Helper()
	eventually(t, "the log has the reason "+reason, func() error {
		if got := len(c.withReason(reason)); got < n {
			return fmt.Errorf("%d times, want %d", got, n)
		}
		return nil
	})
	for i, entry := range c.withReason(reason) {
		want := "debug"
		if i == 0 {
			want = "info"
		}
		if entry.text("level") != want {
			t.Errorf("entry %d with reason %s is at level %s, want %s: %v", i, reason, entry.text("level"), want, entry)
		}
	}
}
