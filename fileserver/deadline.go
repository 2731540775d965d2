package fileserver

import (
	"net/http"
	"sync"
	"time"
)

// A writeDeadline is the write deadline of a response over HTTP/2. The HTTP/2 server has
// a timer that resets the stream, and a goroutine that must be told of every change.
// Caddy's idle timeouts make two changes for each write. So for a stream that was taken
// over the timer is here, and the server is told only when it fires.
type writeDeadline struct {
	server http.ResponseWriter

	mu    sync.Mutex // guards what follows
	last  time.Time  // the deadline that was set last
	timer *time.Timer
	own   bool // the timer is here
	free  bool // the server has no deadline
	past  bool // the deadline has passed, and the server knows
	done  bool // the timer must not be taken any more
}

// set sets the deadline. The zero value stands for none.
func (d *writeDeadline) set(t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last = t
	if !d.own {
		return d.tellServer(t)
	}
	if !d.free { // a deadline was set before our writer was there
		_ = d.tellServer(time.Time{})
		d.free = true
	}
	d.start()
	return nil
}

// start starts the timer, or stops it. Caller holds d.mu.
func (d *writeDeadline) start() {
	switch {
	case d.last.IsZero():
		if d.timer != nil {
			d.timer.Stop()
		}
	case d.timer == nil:
		d.timer = time.AfterFunc(time.Until(d.last), d.pass)
	default:
		d.timer.Reset(time.Until(d.last))
	}
}

// pass makes the server reset the stream.
func (d *writeDeadline) pass() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.own && !d.last.IsZero() && !time.Now().Before(d.last) { // otherwise it was set again meanwhile
		_ = d.tellServer(time.Unix(1, 0))
		d.past = true
	}
}

// tellServer sets the server's own deadline. Caller holds d.mu.
func (d *writeDeadline) tellServer(deadline time.Time) error {
	return http.NewResponseController(d.server).SetWriteDeadline(deadline)
}

// take takes the timer over from the server, unless giveBack was called before.
func (d *writeDeadline) take() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.done {
		return
	}
	if !d.last.IsZero() {
		_ = d.tellServer(time.Time{})
		d.free = true
	}
	d.own = true
	d.start()
}

// giveBack gives the timer back to the server, for good. No timer may use the server's
// writer after the server's handler has returned.
func (d *writeDeadline) giveBack() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.done = true
	if !d.own {
		return
	}
	d.own = false
	if d.timer != nil {
		d.timer.Stop()
	}
	if !d.last.IsZero() && !d.past {
		_ = d.tellServer(d.last)
	}
}
