package ktls

import (
	"context"
	"errors"
	"sync"
	"time"
)

// drainTimeout is how long a closed connection may go without progress before it is given
// up. It is Caddy's own limit for a write that stalls.
const drainTimeout = time.Minute

// drainLimit is how long a closed connection is kept open at most.
const drainLimit = time.Hour

// errStalled ends the drain of a connection whose peer has stopped reading.
var errStalled = errors.New("ktls: the peer stopped reading before it had received everything")

// drainInBackground sends what is left, and closes the socket when the peer has
// acknowledged everything.
//
// A record that does not fit into TCP's queue waits in the TLS layer. close(2) and
// shutdown(2) drop it there, although sendfile(2) and sendmsg(2) have reported success.
func (c *Conn) drainInBackground() {
	// Wake a Read that is blocked. For its caller the connection is closed.
	_ = c.raw.SetReadDeadline(time.Unix(1, 0))
	c.server.options.Drain.add(1)
	go func() {
		defer c.server.options.Drain.add(-1)
		if err := c.drain(); err != nil {
			c.tellLost(err)
		}
		_ = c.shut()
	}()
}

// drain ends the connection in order. It returns an error if it can't, unless the user of
// the connection knows of it already.
func (c *Conn) drain() error {
	begin := time.Now()
	progress := begin
	var acked uint64
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		time.Sleep(pause)
		// A reader may be stuck with an alert for a peer that doesn't read.
		if c.out.TryLock() {
			known := c.known()
			done, err := c.finish()
			callAll(c.out.release())
			if done || known && err != nil {
				return nil
			}
			if err != nil {
				return err
			}
		}
		if now, err := c.kernel.acked(); err != nil {
			return err
		} else if now != acked {
			acked, progress = now, time.Now()
		}
		if time.Since(progress) > drainTimeout || time.Since(begin) > drainLimit {
			return errStalled
		}
	}
}

// Wait waits for the Server's connections that were closed but still have data to send,
// until ctx is done at the latest, see [Drain.Wait].
func (s *Server) Wait(ctx context.Context) error { return s.options.Drain.Wait(ctx) }

// A Drain counts the connections that were closed but still have data to send, see
// [Conn.Close]. It is not a sync.WaitGroup, because connections are closed while somebody
// waits or after they have given up waiting. The zero value is ready for use.
type Drain struct {
	mu   sync.Mutex
	n    int
	idle chan struct{} // closed when n becomes 0; nil if nobody waits
}

// Wait waits until there are no such connections, or until ctx is done. In the latter
// case it returns the error of ctx. A process calls it before it exits.
func (d *Drain) Wait(ctx context.Context) error {
	select {
	case <-d.none():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *Drain) add(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.n += n
	if d.n == 0 && d.idle != nil {
		close(d.idle)
		d.idle = nil
	}
}

// none returns a channel that is closed when no connection is draining.
func (d *Drain) none() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.n == 0 {
		done := make(chan struct{})
		close(done)
		return done
	}
	if d.idle == nil {
		d.idle = make(chan struct{})
	}
	return d.idle
}
