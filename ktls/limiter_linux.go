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
// waits for a disk nevertheless, or for a file server, does not count: after several times
// the processor time that such calls take, it loses its place to whoever waits for one. That
// time is measured, because processors differ. With a constant of 4 ms, which is enough at
// 1 GiB/s, calls on a slow processor lost their places early: 16 connections over HTTP/1.1
// moved 1.5 to 1.6 bytes between memory and cache for a byte of body, where they move 0.9
// (bench, workload memory).
type sendfileLimiter struct {
	places func() int

	mu       sync.Mutex
	holders  []*place
	waiting  []*place    // in order of arrival
	timer    *time.Timer // takes places from calls that last too long
	watching bool        // the timer is set

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

// tryEnter gives p a place if one is free and nobody waits for it. Caller holds l.mu.
func (l *sendfileLimiter) tryEnter(p *place) bool {
	if slices.Contains(l.holders, p) {
		return true
	}
	if len(l.waiting) > 0 || !l.free() {
		return false
	}
	l.holders = append(l.holders, p)
	return true
}

// free reports whether there is a place. Caller holds l.mu.
func (l *sendfileLimiter) free() bool { return len(l.holders) < l.places() }

// give gives free places to those who wait. Caller holds l.mu.
func (l *sendfileLimiter) give() {
	for len(l.waiting) > 0 && l.free() {
		p := l.waiting[0]
		l.waiting = slices.Delete(l.waiting, 0, 1)
		l.holders = append(l.holders, p)
		close(p.ready)
	}
}

// take takes the place from p, if it has one. Caller holds l.mu.
func (l *sendfileLimiter) take(p *place) {
	if i := slices.Index(l.holders, p); i >= 0 {
		l.holders = slices.Delete(l.holders, i, i+1)
		p.due = time.Time{}
		l.give()
	}
}

// watch sets the timer if somebody waits for a place. While nobody does, a call may keep
// its place as long as it takes: setting a timer for each call would wake a thread each
// time, the one that waits for the network. Caller holds l.mu.
func (l *sendfileLimiter) watch() {
	if l.watching || len(l.waiting) == 0 {
		return
	}
	var first time.Time
	for _, p := range l.holders {
		if first.IsZero() || !p.due.IsZero() && p.due.Before(first) {
			first = p.due
		}
	}
	if first.IsZero() {
		return // no call has begun
	}
	l.watching = true
	if l.timer == nil {
		l.timer = time.AfterFunc(time.Until(first), l.takeOverdue)
	} else {
		l.timer.Reset(time.Until(first))
	}
}

// takeOverdue takes the places of calls that last too long.
func (l *sendfileLimiter) takeOverdue() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watching = false
	now := time.Now()
	for _, p := range slices.Clone(l.holders) {
		if len(l.waiting) > 0 && !p.due.IsZero() && !p.due.After(now) {
			l.take(p)
		}
	}
	l.watch()
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

// A place belongs to one connection, for one call after another. Its limiter's lock guards
// the other fields.
type place struct {
	limiter *sendfileLimiter
	ready   chan struct{} // closed when a place is given to one that waits
	due     time.Time     // when the call may lose its place; zero: it has not begun
}

func (p *place) tryEnter() bool {
	p.limiter.mu.Lock()
	defer p.limiter.mu.Unlock()
	return p.limiter.tryEnter(p)
}

// enter takes a place. It may wait for one. An error of w ends the wait.
func (p *place) enter(w waiter) error {
	l := p.limiter
	l.mu.Lock()
	if l.tryEnter(p) {
		l.mu.Unlock()
		return nil
	}
	p.ready = make(chan struct{})
	l.waiting = append(l.waiting, p)
	l.give() // there may be more places than before
	l.watch()
	l.mu.Unlock()
	err := w.wait(p.ready)
	if err != nil {
		p.leave()
	}
	return err
}

// leave ends the wait for a place, or gives it back.
func (p *place) leave() {
	l := p.limiter
	l.mu.Lock()
	defer l.mu.Unlock()
	l.take(p)
	if i := slices.Index(l.waiting, p); i >= 0 {
		l.waiting = slices.Delete(l.waiting, i, i+1)
	}
}

// run runs a call that is to send n bytes and has a place, and gives the place back. It
// returns how many bytes the call has sent.
func (p *place) run(n int64, call func() int64) int64 {
	wall, begin := time.Now(), threadTime()
	p.begin(wall.Add(p.limiter.patience(n)))
	sent := call()
	took, lasted := threadTime()-begin, time.Since(wall)
	p.leave()
	if sent == n {
		p.limiter.learn(n, took, lasted)
	}
	return sent
}

// begin says when the call that begins may lose its place.
func (p *place) begin(due time.Time) {
	p.limiter.mu.Lock()
	defer p.limiter.mu.Unlock()
	p.due = due
	p.limiter.watch()
}

// threadTime returns the processor time that the thread has used.
func threadTime() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) // fails for an unknown clock only
	return time.Duration(t.Nano())
}
