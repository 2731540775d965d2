package telemetry

import (
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-ktls/caddy-ktls/internal/doctor"
)

// What the self-test finds is a warning that says what to do.
func TestLogFaults(t *testing.T) {
	core, logs := observer.New(zap.DebugLevel)
	(&Connections{logger: zap.New(core)}).logFaults([]doctor.HTTPFault{{Protocol: "HTTP/2", What: "no stream", Copied: true}, {Protocol: "HTTP/1.1", What: "no more"}})
	entries := logs.All()
	if len(entries) != 2 {
		t.Fatalf("%d lines", len(entries))
	}
	for i, want := range []string{"files over HTTP/2 are copied: no stream. ", "files over HTTP/1.1 take more work: no more. "} {
		if e := entries[i]; e.Level != zapcore.WarnLevel || !strings.HasPrefix(e.Message, want) || !strings.HasSuffix(e.Message, doctor.TakeNewer) {
			t.Errorf("%v: %s", e.Level, e.Message)
		}
	}
}

// What shows in service is an error that says what to do: it names the wrappers that
// may be the cause.
func TestLogDistrust(t *testing.T) {
	for _, tt := range []struct {
		behind []string
		want   string
	}{
		{nil, ""},
		{[]string{"ktls"}, ""},
		{[]string{"shaper", "counter"}, "shaper, counter"},
	} {
		core, logs := observer.New(zap.DebugLevel)
		(&Connections{logger: zap.New(core), behind: tt.behind}).Distrusted()
		entries := logs.All()
		if len(entries) != 1 || entries[0].Level != zapcore.ErrorLevel {
			t.Fatal(entries)
		}
		message := entries[0].Message
		if !strings.Contains(message, "HTTP/1.1") || !strings.HasSuffix(message, doctor.TakeNewer) {
			t.Error(message)
		}
		if names := strings.Contains(message, "listener_wrappers"); names != (tt.want != "") || !strings.Contains(message, tt.want) {
			t.Errorf("%v: %s", tt.behind, message)
		}
	}
}
