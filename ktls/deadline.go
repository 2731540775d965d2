package ktls

import (
	"net"
	"os"
	"sync"
	"time"
)

// A writeDeadline is the deadline of writes. The socket has it too. This copy is for
// waits for something other than the socket.
type writeDeadline struct {
	mu      sync.Mutex
	t       time.Time     // zero: none
	changed chan struct{} // closed when t changes or the connection is closed; nil if nobody waits
}

func (d *writeDeadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.t = t
	d.signal()
}

// wake makes whoever waits look at the connection again.
func (d *writeDeadline) wake() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.signal()
}

func (d *writeDeadline) signal() {
	if d.changed != nil {
		close(d.changed)
		d.changed = nil
	}
}

func (d *writeDeadline) get() (t time.Time, changed <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.changed == nil {
		d.changed = make(chan struct{})
	}
	return d.t, d.changed
}

// wait implements waiter.
func (c *Conn) wait(ready <-chan struct{}) error {
	var timer *time.Timer
	defer func() {
		if timer != nil {
			timer.Stop()
		}
	}()
	for {
		deadline, changed := c.deadline.get()
		if c.closed.Load() {
			return net.ErrClosed
		}
		var expired <-chan time.Time
		switch {
		case deadline.IsZero():
		case timer == nil:
			timer = time.NewTimer(time.Until(deadline))
			expired = timer.C
		default:
			timer.Reset(time.Until(deadline))
			expired = timer.C
		}
		select {
		case <-ready:
			return nil
		case <-expired:
			return os.ErrDeadlineExceeded
		case <-changed:
		}
	}
}

var _ waiter = (*Conn)(nil)
