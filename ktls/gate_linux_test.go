package ktls

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// No more calls than places work at a time, and a call that waits for something
// keeps its place for a short time only.
func TestGate(t *testing.T) {
	tests := []struct {
		name    string
		n       int64
		lasting time.Duration // of a call
		want    int32         // most calls at a time
	}{
		{"short calls", gateUnit - 1, time.Microsecond, 16},
		{"long calls", gateUnit, time.Microsecond, 2},
		{"calls that wait", gateUnit, time.Second, 16},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGate(2)
				var now, most atomic.Int32
				var calls sync.WaitGroup
				for range 16 {
					calls.Go(func() {
						if n := g.run(test.n, func() int64 {
							n := now.Add(1)
							defer now.Add(-1)
							for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
							}
							time.Sleep(test.lasting)
							return test.n - 1
						}); n != test.n-1 {
							t.Errorf("run returns %d, want %d", n, test.n-1)
						}
					})
				}
				calls.Wait()
				if got := most.Load(); got != test.want {
					t.Errorf("up to %d calls at a time, want %d", got, test.want)
				}
				if n := len(g.places); n != 0 {
					t.Errorf("%d places are taken afterwards, want none", n)
				}
			})
		})
	}
}

// What a call may last follows the processor time of such calls, however long
// they wait.
func TestGateLearns(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct {
		name         string
		n            int64
		took, lasted time.Duration
		want         time.Duration
	}{
		{"calls that work", gateUnit, 3 * ms, 4 * ms, 3 * ms},
		{"longer calls", 4 * gateUnit, 3 * ms, 4 * ms, 3 * ms / 4},
		{"calls that wait", gateUnit, ms, time.Hour, ms},
		{"another thread's time", gateUnit, 5 * ms, 4 * ms, time.Duration(firstCost)},
		{"another thread's earlier time", gateUnit, -ms, 4 * ms, time.Duration(firstCost)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGate(1)
			for range 100 {
				g.learn(tt.n, tt.took, tt.lasted)
			}
			if got := time.Duration(g.cost.Load()); got < tt.want-time.Microsecond || got > tt.want+time.Microsecond {
				t.Errorf("cost has become %v, want %v", got, tt.want)
			}
		})
	}
}
