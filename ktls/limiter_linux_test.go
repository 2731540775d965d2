package ktls

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// No more calls than places work at a time, and a call that waits for something
// keeps its place for a short time only.
func TestLimiter(t *testing.T) {
	tests := []struct {
		name    string
		n       int64
		lasting time.Duration // of a call
		want    int32         // most calls at a time
	}{
		{"long calls", limitedLen, time.Microsecond, 2},
		{"calls that wait", limitedLen, time.Second, 16},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newSendfileLimiter(func() int { return 2 })
				var now, most atomic.Int32
				var calls sync.WaitGroup
				for range 16 {
					calls.Go(func() {
						p := place{limiter: l}
						if err := p.enter(test.n, patient{}); err != nil {
							t.Error(err)
						}
						if n := p.run(test.n, func() int64 {
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
				l.mu.Lock()
				defer l.mu.Unlock()
				if len(l.holders) != 0 || len(l.waiting) != 0 {
					t.Errorf("%d places are taken afterwards, and %d wait; want none", len(l.holders), len(l.waiting))
				}
			})
		})
	}
}

// A call that lasts keeps its place until somebody wants it.
func TestLimiterWithoutNeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newSendfileLimiter(func() int { return 1 })
		long, other := &place{limiter: l}, &place{limiter: l}
		if !long.tryEnter(limitedLen) {
			t.Fatal("no place")
		}
		long.run(limitedLen, func() int64 {
			time.Sleep(time.Hour)
			if !slices.Contains(l.holders, long) {
				t.Error("the place is lost, and nobody waits")
			}
			if err := other.enter(limitedLen, patient{}); err != nil {
				t.Error(err)
			}
			if slices.Contains(l.holders, long) {
				t.Error("the place is not lost")
			}
			return 0
		})
		if !slices.Contains(l.holders, other) {
			t.Error("the end of the call has taken another's place")
		}
	})
}

// While calls last, each loses its place, also one that may keep it longer than another.
func TestLimiterDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newSendfileLimiter(func() int { return 2 })
		var calls sync.WaitGroup
		defer calls.Wait()
		for _, n := range []int64{limitedLen, maxSendFile} {
			p := place{limiter: l}
			p.tryEnter(n)
			calls.Go(func() { p.run(n, func() int64 { time.Sleep(time.Hour); return 0 }) })
		}
		synctest.Wait()
		begin := time.Now()
		for range 2 {
			calls.Go(func() {
				p := place{limiter: l}
				if err := p.enter(limitedLen, patient{}); err != nil {
					t.Error(err)
				}
				if d := time.Since(begin); d > l.patience(maxSendFile) {
					t.Errorf("waited %v", d)
				}
				time.Sleep(time.Hour)
				p.leave()
			})
		}
	})
}

// How long a call may last follows the processor time of such calls, however long
// they wait.
func TestLimiterLearns(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct {
		name         string
		n            int64
		took, lasted time.Duration
		want         time.Duration
	}{
		{"calls that work", limitedLen, 3 * ms, 4 * ms, 3 * ms},
		{"longer calls", 4 * limitedLen, 3 * ms, 4 * ms, 3 * ms / 4},
		{"calls that wait", limitedLen, ms, time.Hour, ms},
		{"another thread's time", limitedLen, 5 * ms, 4 * ms, time.Duration(firstCost)},
		{"another thread's earlier time", limitedLen, -ms, 4 * ms, time.Duration(firstCost)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newSendfileLimiter(func() int { return 1 })
			for range 100 {
				l.learn(tt.n, tt.took, tt.lasted)
			}
			if got := time.Duration(l.cost.Load()); got < tt.want-time.Microsecond || got > tt.want+time.Microsecond {
				t.Errorf("cost has become %v, want %v", got, tt.want)
			}
		})
	}
}

// Whoever waits for a place gets it in turn, gives up without one, and gives back one
// that comes at the same time. More processors mean more places.
func TestLimiterWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // no timer fires
		places := 1
		l := newSendfileLimiter(func() int { return places })
		first, second := &place{limiter: l}, &place{limiter: l}
		if !first.tryEnter(limitedLen) || second.tryEnter(limitedLen) {
			t.Fatal("not one place")
		}
		gaveUp := errors.New("gave up")
		if err := second.enter(limitedLen, waits(func(<-chan struct{}) error { return gaveUp })); err != gaveUp {
			t.Errorf("enter: %v", err)
		}
		if err := second.enter(limitedLen, waits(func(ready <-chan struct{}) error {
			first.leave() // at the last moment
			<-ready
			return gaveUp
		})); err != gaveUp {
			t.Errorf("enter: %v", err)
		}
		if len(l.holders) != 0 || len(l.waiting) != 0 {
			t.Errorf("%d places are taken, %d wait; want none", len(l.holders), len(l.waiting))
		}

		first.tryEnter(limitedLen)
		var three [3]place
		for i := range three {
			three[i] = place{limiter: l, ready: make(chan struct{})}
			l.waiting = append(l.waiting, &three[i])
		}
		if second.tryEnter(limitedLen) {
			t.Error("a place for somebody who has not waited")
		}
		places = 2
		first.leave()
		for i, p := range three {
			select {
			case <-p.ready:
				if i == 2 {
					t.Error("a third place")
				}
			default:
				if i < 2 {
					t.Error("no place for", i)
				}
			}
		}
		if len(l.holders) != 2 || len(l.waiting) != 1 {
			t.Errorf("%d places are taken of 2, %d wait", len(l.holders), len(l.waiting))
		}
	})
}

// waits is a waiter.
type waits func(ready <-chan struct{}) error

func (w waits) wait(ready <-chan struct{}) error { return w(ready) }

// A call that counts needs no memory: there is one for each MiB that is sent.
func TestPlaceAllocations(t *testing.T) {
	p := place{limiter: newSendfileLimiter(func() int { return 1 })}
	call := func() int64 { return limitedLen }
	if n := testing.AllocsPerRun(100, func() {
		if p.tryEnter(limitedLen) {
			p.run(limitedLen, call)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
