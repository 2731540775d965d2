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

// tryEnter gives p a place for a call of n bytes, if one is free and nobody waits for it.
// p may have a place. Caller holds l.mu.
func (l *sendfileLimiter) tryEnter(p *place, n int64) bool {
	switch {
	case slices.Contains(l.holders, p):
	case len(l.waiting) > 0 || !l.free():
		return false
	default:
		l.holders = append(l.holders, p)
	}
	p.due = time.Now().Add(l.patience(n))
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
		p.due = time.Now().Add(l.patience(maxSendFile)) // its call follows, with tryEnter
		close(p.ready)
	}
}

// take takes the place from p, if it has one. Caller holds l.mu.
func (l *sendfileLimiter) take(p *place) {
	if i := slices.Index(l.holders, p); i >= 0 {
		l.holders = slices.Delete(l.holders, i, i+1)
		l.give()
	}
}

// watch sets the timer if somebody waits for a place. While nobody does, a call may keep
// its place as long as it takes: setting a timer for each call would wake a thread each
// time, the one that waits for the network. Caller holds l.mu.
func (l *sendfileLimiter) watch() {
	if l.watching || len(l.waiting) == 0 || len(l.holders) == 0 {
		return
	}
	l.watching = true
	first := slices.MinFunc(l.holders, func(a, b *place) int { return a.due.Compare(b.due) })
	if pause := time.Until(first.due); l.timer == nil {
		l.timer = time.AfterFunc(pause, l.takeOverdue)
	} else {
		l.timer.Reset(pause)
	}
}

// takeOverdue takes the places of calls that last too long.
func (l *sendfileLimiter) takeOverdue() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watching = false
	now := time.Now()
	for _, p := range slices.Clone(l.holders) {
		if len(l.waiting) > 0 && !p.due.After(now) {
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
// due. The other fields are for whoever holds Conn.out.
type place struct {
	limiter *sendfileLimiter
	due     time.Time     // when the call may lose its place
	entered bool          // the connection has, or had, a place for its next call
	ready   chan struct{} // closed when a place is given to one that waits
}

// tryEnter takes a place for a call of n bytes, or keeps the one that it has.
func (p *place) tryEnter(n int64) bool {
	p.limiter.mu.Lock()
	defer p.limiter.mu.Unlock()
	p.entered = p.limiter.tryEnter(p, n)
	return p.entered
}

// enter takes a place for a call of n bytes. It may wait for one. An error of w ends the
// wait.
func (p *place) enter(n int64, w waiter) error {
	if p.tryEnter(n) {
		return nil
	}
	p.queue()
	err := w.wait(p.ready)
	if err != nil {
		p.giveUp()
		return err
	}
	p.entered = true
	return nil
}

func (p *place) queue() {
	l := p.limiter
	l.mu.Lock()
	defer l.mu.Unlock()
	p.ready = make(chan struct{})
	l.waiting = append(l.waiting, p)
	l.give() // a place may have become free
	l.watch()
}

// giveUp ends the wait for a place, or gives back one that has just come.
func (p *place) giveUp() {
	l := p.limiter
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.waiting, p); i >= 0 {
		l.waiting = slices.Delete(l.waiting, i, i+1)
		return
	}
	l.take(p)
}

// leave gives the place back, if the connection still has it.
func (p *place) leave() {
	if !p.entered {
		return
	}
	p.entered = false
	p.limiter.mu.Lock()
	defer p.limiter.mu.Unlock()
	p.limiter.take(p)
}

// run runs a call that is to send n bytes and has a place, and gives the place back. It
// returns how many bytes the call has sent.
func (p *place) run(n int64, call func() int64) int64 {
	wall, begin := time.Now(), threadTime()
	sent := call()
	took, lasted := threadTime()-begin, time.Since(wall)
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
