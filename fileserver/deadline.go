package fileserver

import (
	"net/http"
	"sync"
	"time"
)

// A writeDeadline is that of a response over HTTP/2. The HTTP/2 server has a timer that
// resets the stream, and a goroutine that has to be told of every change, which Caddy's
// idle timeouts make twice for each write. So for a stream that was taken over the timer
// is here, and the server is told when it ends.
type writeDeadline struct {
	mu    sync.Mutex // guards what follows
	last  time.Time  // as it was set last
	timer *time.Timer
	own   bool // the timer is here
	free  bool // the server has none
	past  bool // it has passed, and the server knows
	done  bool // the timer must not come here any more
}

// SetWriteDeadline is what an http.ResponseController sets the deadline by.
func (w *writer) SetWriteDeadline(t time.Time) error {
	d := &w.deadline
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last = t
	if !d.own {
		return w.tellServer(t)
	}
	if !d.free { // somebody has set one before there was this writer
		_ = w.tellServer(time.Time{})
		d.free = true
	}
	d.start(w)
	return nil
}

// start starts the timer, or stops it. d.mu is held.
func (d *writeDeadline) start(w *writer) {
	switch {
	case d.last.IsZero():
		if d.timer != nil {
			d.timer.Stop()
		}
	case d.timer == nil:
		d.timer = time.AfterFunc(time.Until(d.last), w.timeOut)
	default:
		d.timer.Reset(time.Until(d.last))
	}
}

// timeOut has the server reset the stream.
func (w *writer) timeOut() {
	d := &w.deadline
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.own && !d.last.IsZero() && !time.Now().Before(d.last) { // else it was set again meanwhile
		_ = w.tellServer(time.Unix(1, 0))
		d.past = true
	}
}

func (w *writer) tellServer(deadline time.Time) error {
	return http.NewResponseController(w.ResponseWriter).SetWriteDeadline(deadline)
}

// ownDeadline takes the timer from the server.
func (w *writer) ownDeadline() {
	d := &w.deadline
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.done {
		return
	}
	if !d.last.IsZero() {
		_ = w.tellServer(time.Time{})
		d.free = true
	}
	d.own = true
	d.start(w)
}

// Done is to be called when the handler that got the writer of [Insert] has returned,
// also if it has panicked. Others may still use the writer, but the server's own may not
// be used by a timer when they have returned too.
func (r *Response) Done() {
	w, d := r.writer, &r.writer.deadline
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
		_ = w.tellServer(d.last)
	}
}
