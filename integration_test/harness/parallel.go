package harness

import (
	"sync"
	"sync/atomic"
	"testing"
)

// InParallel calls do n times, several at once. If a call fails the test, the test ends
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
