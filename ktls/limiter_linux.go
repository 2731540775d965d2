package ktls

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A sendfileLimiter allows as many long system calls at a time as there are processors.
//
// While a system call takes long, as sendfile(2) of a MiB does, the Go scheduler starts
// another thread for other goroutines. With many connections, many threads took turns in
// sendfile(2), each with ciphertext in its send buffer. Together the ciphertext left the
// processor's cache before TCP read it.
//
// A call that waits for a disk or a file server does not count: when it lasts longer than
// patience, it loses its place.
type sendfileLimiter struct {
	places func() int

	mu      sync.Mutex
	taken   int
	waiting []chan struct{} // in order of arrival; closed when a place is given
}

const (
	// limitedLen is the least length of a call that counts.
	limitedLen = 256 << 10
	// patience is how long a call keeps its place: four times what the longest call, of
	// maxSendFile, takes at 1 GiB/s. On a slower processor calls lose their places early,
	// and more of them run at a time, as without a limiter. Measuring how long calls take
	// was no better: most of them end early, when the send buffer is full, and show
	// nothing.
	patience = 4 * time.Millisecond
)

// limiter is for all connections, because they share the processors. The runtime changes
// how many it uses when the limits of the process change.
var limiter = newSendfileLimiter(func() int { return runtime.GOMAXPROCS(0) })

func newSendfileLimiter(places func() int) *sendfileLimiter {
	return &sendfileLimiter{places: places}
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

// run runs a call that has a place, and gives the place back. It returns how many bytes
// the call has sent.
func (p *place) run(call func() int64) int64 {
	if p.timer == nil {
		p.timer = time.AfterFunc(patience, p.leave)
	} else {
		// If the timer has just fired for the call before, this call loses its place
		// early, which does no harm.
		p.timer.Reset(patience)
	}
	sent := call()
	p.timer.Stop()
	p.leave()
	return sent
}
