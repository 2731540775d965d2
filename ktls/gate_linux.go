package ktls

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A gate lets so many long system calls work at a time as there are processors.
//
// While a system call takes long, as sendfile(2) of a MiB does, the Go scheduler
// starts another thread for what else there is to do. With many connections there
// were many threads in sendfile(2) that took turns, each of them with ciphertext
// in its send buffer, which together left the processor's cache before TCP read
// it.
//
// A call that waits, for a disk or a file server, does not count: after several
// times the processor time that such calls take it loses its place.
type gate struct {
	places chan struct{}
	cost   atomic.Int64 // mean processor time of gateUnit bytes, in ns
}

const (
	// gateUnit is also the least length of a call that counts.
	gateUnit = 256 << 10
	// firstCost is a guess: 1 GiB/s.
	firstCost = int64(time.Second / 4096)
)

// sendFileGate is for all connections, since they share the processors.
var sendFileGate = sync.OnceValue(func() *gate { return newGate(runtime.GOMAXPROCS(0)) })

func newGate(places int) *gate {
	g := &gate{places: make(chan struct{}, places)}
	g.cost.Store(firstCost)
	return g
}

// run runs a call that is to send n bytes, and returns how many it has sent.
func (g *gate) run(n int64, call func() int64) int64 {
	if n < gateUnit {
		return call()
	}
	g.places <- struct{}{}
	patience := time.AfterFunc(time.Duration(4*g.cost.Load()*n/gateUnit), g.leave)
	wall, begin := time.Now(), threadTime()
	sent := call()
	took, lasted := threadTime()-begin, time.Since(wall)
	if patience.Stop() {
		g.leave()
	}
	if sent == n {
		g.learn(n, took, lasted)
	}
	return sent
}

// learn takes note of the processor time of a call of n bytes, which means
// nothing if the goroutine has gone on in another thread.
func (g *gate) learn(n int64, took, lasted time.Duration) {
	if took <= 0 || took > lasted {
		return
	}
	cost := g.cost.Load()
	g.cost.Store(cost + (int64(took)*gateUnit/n-cost)/8)
}

func (g *gate) leave() { <-g.places }

// threadTime returns the processor time that the thread has used.
func threadTime() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) // fails for an unknown clock only
	return time.Duration(t.Nano())
}
