package testutil

import (
	"runtime"
	"testing"
	"time"
)

// Patience limits every wait for something that happens by itself. Emulated machines are
// slow.
const Patience = time.Minute

// Eventually calls ask until it returns no error, for no longer than Patience.
func Eventually(t testing.TB, what string, ask func() error) {
	t.Helper()
	EventuallyWithin(t, Patience, what, ask)
}

// EventuallyWithin is Eventually with another limit.
func EventuallyWithin(t testing.TB, limit time.Duration, what string, ask func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for pause := time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v not yet: %s: %v", limit, what, err)
		}
		time.Sleep(pause)
	}
}

// Returns ends the test, with the stacks of all goroutines, if f does not return within
// Patience. It runs f in another goroutine, where f can't end the test.
func Returns(t testing.TB, what string, f func()) {
	t.Helper()
	returned := make(chan struct{})
	go func() {
		defer close(returned)
		f()
	}()
	select {
	case <-returned:
	case <-time.After(Patience):
		stacks := make([]byte, 1<<20)
		t.Fatalf("%s hangs\n%s", what, stacks[:runtime.Stack(stacks, true)])
	}
}
