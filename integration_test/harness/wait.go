package harness

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Patience bounds every wait for something that happens by itself. Emulated machines
// are slow.
const Patience = time.Minute

// Must fails the test if there is an error.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Eventually asks until there is no error, for as long as Patience.
func Eventually(t testing.TB, what string, ask func() error) {
	t.Helper()
	EventuallyWithin(t, Patience, what, ask)
}

// EventuallyWithin is Eventually with another limit.
func EventuallyWithin(t testing.TB, limit time.Duration, what string, ask func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
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

// InParallel does something n times, several at once. A test that fails there ends
// afterwards.
func InParallel(t testing.TB, n, atOnce int, do func(i int)) {
	t.Helper()
	var all sync.WaitGroup
	var next atomic.Int64
	for range atOnce {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && !t.Failed(); i = int(next.Add(1)) - 1 {
				do(i)
			}
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// FreePorts returns ports of 127.0.0.1 that nobody listens at, each another.
func FreePorts(t testing.TB, n int) (ports []string) {
	t.Helper()
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		Must(t, err)
		defer ln.Close() // when all of them are known
		_, port, err := net.SplitHostPort(ln.Addr().String())
		Must(t, err)
		ports = append(ports, port)
	}
	return ports
}
