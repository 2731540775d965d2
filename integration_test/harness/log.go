package harness

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A Log is the name of a file that a Caddy logs to.
type Log string

// A LogEntry is a line of a log.
type LogEntry map[string]any

// Text returns a field that is text.
func (e LogEntry) Text(key string) string { s, _ := e[key].(string); return s }

// Message returns the message.
func (e LogEntry) Message() string { return e.Text("msg") }

// Texts returns a field that is a list.
func (e LogEntry) Texts(key string) []string {
	list, _ := e[key].([]any)
	var texts []string
	for _, element := range list {
		texts = append(texts, fmt.Sprint(element))
	}
	return texts
}

// Entries returns the log so far.
func (l Log) Entries() []LogEntry {
	data, _ := os.ReadFile(string(l))
	var entries []LogEntry
	for line := range bytes.Lines(data) {
		var entry LogEntry
		if json.Unmarshal(line, &entry) == nil {
			entries = append(entries, entry)
		}
	}
	return entries
}

// Select returns the entries for which holds returns true.
func (l Log) Select(holds func(LogEntry) bool) []LogEntry {
	return slices.DeleteFunc(l.Entries(), func(e LogEntry) bool { return !holds(e) })
}

// WithMessage returns the entries with a message.
func (l Log) WithMessage(message string) []LogEntry {
	return l.Select(func(e LogEntry) bool { return e.Message() == message })
}

// WithReason returns the entries of this module with a reason.
func (l Log) WithReason(reason string) []LogEntry {
	return l.Select(func(e LogEntry) bool { return e.Text("reason") == reason })
}

// Await waits for an entry for which holds returns true, and returns the first.
func (l Log) Await(t testing.TB, what string, holds func(LogEntry) bool) (found LogEntry) {
	t.Helper()
	testutil.Eventually(t, "the log has: "+what, func() error {
		entries := l.Select(holds)
		if len(entries) == 0 {
			return fmt.Errorf("it has not")
		}
		found = entries[0]
		return nil
	})
	return found
}

// AwaitMessage waits until the log has so many entries with a message.
func (l Log) AwaitMessage(t testing.TB, message string, times int) {
	t.Helper()
	testutil.Eventually(t, "the log has: "+message, func() error {
		if n := len(l.WithMessage(message)); n < times {
			return fmt.Errorf("%d times, want %d", n, times)
		}
		return nil
	})
}

// ExpectReason fails the test unless the log has n entries with a reason, the first
// at level info and the others at debug.
func (l Log) ExpectReason(t testing.TB, reason string, n int) {
	t.Helper()
	testutil.Eventually(t, "the log has the reason "+reason, func() error {
		if got := len(l.WithReason(reason)); got < n {
			return fmt.Errorf("%d times, want %d", got, n)
		}
		return nil
	})
	for i, entry := range l.WithReason(reason) {
		want := "debug"
		if i == 0 {
			want = "info"
		}
		if entry.Text("level") != want {
			t.Errorf("entry %d with reason %s is at level %s, want %s: %v", i, reason, entry.Text("level"), want, entry)
		}
	}
}

// Tail returns the errors in the log and the end of the log, without what the tests
// themselves cause.
func (l Log) Tail() string {
	const length = 6 << 10
	data, _ := os.ReadFile(string(l))
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
