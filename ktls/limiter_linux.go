package ktls

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A sendfileLimiter allows as many long system calls at a time as there are processors.
//
// While a system call takes long, as sendfile(2) of a MiB does, the Go scheduler starts
// another thread for other goroutines. With many connections, many threads took turns in
// sendfile(2), each with ciphertext in its send buffer. Together the ciphertext left the
// processor's cache before TCP read it.
//
// SendFile waits for a disk before it calls sendfile(2), see package pagecache. A call that
// waits for a disk nevertheless, or for a file server, does not count: after several times the
// processor time that such calls take, it loses its place. That time is measured, because
// processors differ. With a constant of 4 ms, which is enough at 1 GiB/s, calls on a slow
// processor lost their places early: 16 connections over HTTP/1.1 moved 1.5 to 1.6 bytes
// between memory and cache for a byte of body, where they move 0.9 (bench, workload memory).
type sendfileLimiter struct {
	places func() int

	mu      sync.Mutex
	taken   int
	waiting []chan struct{} // in order of arrival; closed when a place is given

	cost atomic.Int64 // mean processor time of limitedLen bytes, in ns
}

const (
	// limitedLen is the least length of a call that counts.
	limitedLen = 256 << 10
	// firstCost is a guess: 1 GiB/s.
	firstCost = int64(time.Second / 4096)
)

// limiter is for all connections, because they share the processors. The runtime changes
// how many it uses when the limits of the process change.
var limiter = newSendfileLimiter(func() int { return runtime.GOMAXPROCS(0) })

func newSendfileLimiter(places func() int) *sendfileLimiter {
	l := &sendfileLimiter{places: places}
	l.cost.Store(firstCost)
	return l
}

// tryEnter takes a place if one is free and nobody waits for it.
func (l *sendfileLimiter) tryEnter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) > 0 || !l.free() {
		return false
	}
	l.taken++
	return true
}

// free reports whether there is a place. Caller holds l.mu.
func (l *sendfileLimiter) free() bool { return l.taken < l.places() }

// enter takes a place. It may wait for one. An error of w ends the wait.
func (l *sendfileLimiter) enter(w waiter) error {
	if l.tryEnter() {
		return nil
	}
	ready := make(chan struct{})
	l.mu.Lock()
	l.waiting = append(l.waiting, ready)
	l.give()
	l.mu.Unlock()
	err := w.wait(ready)
	if err != nil {
		l.giveUp(ready)
	}
	return err
}

// give gives free places to those who wait. Caller holds l.mu.
func (l *sendfileLimiter) give() {
	for len(l.waiting) > 0 && l.free() {
		l.taken++
		close(l.waiting[0])
		l.waiting = l.waiting[1:]
	}
}

// giveUp ends the wait for a place, or gives back a place that has just come.
func (l *sendfileLimiter) giveUp(ready chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.waiting, ready); i >= 0 {
		l.waiting = slices.Delete(l.waiting, i, i+1)
		return
	}
	l.taken--
	l.give()
}

func (l *sendfileLimiter) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.taken--
	l.give()
}

// patience returns how long a call of n bytes keeps its place.
func (l *sendfileLimiter) patience(n int64) time.Duration {
	return time.Duration(4 * l.cost.Load() * n / limitedLen)
}

// learn takes note of the processor time of a call of n bytes. It means nothing if the
// goroutine has gone on in another thread.
func (l *sendfileLimiter) learn(n int64, took, lasted time.Duration) {
	if took <= 0 || took > lasted {
		return
	}
	cost := l.cost.Load()
	l.cost.Store(cost + (int64(took)*limitedLen/n-cost)/8)
}

// A place belongs to one connection, for one call after another. The zero value holds
// none.
type place struct {
	limiter *sendfileLimiter
	taken   atomic.Bool
	timer   *time.Timer // takes the place from a call that lasts too long
}

func (p *place) tryEnter() bool {
	if p.taken.Load() {
		return true
	}
	p.taken.Store(p.limiter.tryEnter())
	return p.taken.Load()
}

func (p *place) enter(w waiter) error {
	err := p.limiter.enter(w)
	p.taken.Store(err == nil)
	return err
}

// leave gives the place back, if the connection still has it.
func (p *place) leave() {
	if p.taken.CompareAndSwap(true, false) {
		p.limiter.leave()
	}
}

// run runs a call that is to send n bytes and has a place, and gives the place back. It
// returns how many bytes the call has sent.
func (p *place) run(n int64, call func() int64) int64 {
	if patience := p.limiter.patience(n); p.timer == nil {
		p.timer = time.AfterFunc(patience, p.leave)
	} else {
		// If the timer has just fired for the call before, this call loses its place
		// early, which does no harm.
		p.timer.Reset(patience)
	}
	wall, begin := time.Now(), threadTime()
	sent := call()
	took, lasted := threadTime()-begin, time.Since(wall)
	p.timer.Stop()
	p.leave()
	if sent == n {
		p.limiter.learn(n, took, lasted)
	}
	return sent
}

// threadTime returns the processor time that the thread has used.
func threadTime() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) // fails for an unknown clock only
	return time.Duration(t.Nano())
}
