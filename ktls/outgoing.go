package ktls

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// outgoing is the lock of whoever sends, with what it guards. All fields but the lock are
// about an offloaded connection.
type outgoing struct {
	sync.Mutex

	open     bool      // the last record may be open
	fileSent time.Time // when SendFile has last ended
	notified bool      // close_notify was sent
	err      error     // of a failed send; sticky
	told     bool      // a call of the connection's user has returned err
	notices  []func()  // calls of functions of the Options that wait until the lock is released

	afterRead atomic.Bool // there are notices to call when Read returns
}

// release releases the lock, and returns the notices that the caller must then call.
func (o *outgoing) release() (notices []func()) {
	notices, o.notices = o.notices, nil
	o.Unlock()
	return notices
}

func callAll(notices []func()) {
	for _, f := range notices {
		f()
	}
}

// lock takes c.out for a call that sends on behalf of the connection's user.
func (c *Conn) lock() {
	c.calls.Add(1)
	c.out.Lock()
}

// unlock ends such a call. If crypto/tls has left a control record meanwhile, it found
// c.out taken. So whoever releases c.out sends the record.
func (c *Conn) unlock() {
	c.out.told = c.out.told || c.out.err != nil
	notices := c.out.release()
	c.calls.Add(-1)
	callAll(notices)
	c.flushControls()
}

// send gives application data to the kernel. Caller holds c.out.
func (c *Conn) send(p []byte, more bool) (int, error) {
	if err := c.flush(); err != nil || len(p) == 0 {
		return 0, c.fail(err)
	}
	n, err := c.kernel.send(p, more)
	c.out.open = more
	return n, c.fail(err)
}

// fail makes an error of a send after the offload permanent: nobody knows how much of the
// data the kernel has, so nothing may follow. After Close only the end of the connection
// follows, and a call that comes too late must not prevent that. Caller holds c.out.
func (c *Conn) fail(err error) error {
	if err != nil && c.out.err == nil && !c.closed.Load() {
		c.out.err = err
	}
	return err
}

// flush sends the control records that crypto/tls has left, and replaces a key that has
// protected enough records. It does neither while a record is open: data that close the
// record follow, and they must not be under another key. If the write deadline has
// passed, nothing was sent and flush can be tried again. Other errors are permanent.
// Caller holds c.out.
func (c *Conn) flush() error {
	if c.closed.Load() {
		return net.ErrClosed
	}
	if c.out.err != nil {
		return c.out.err
	}
	if c.out.open || !c.controlsDue() {
		return nil
	}
	relay := c.tap.relay.Load()
	controls, dead := relay.take()
	for i, r := range controls {
		err := c.sendControl(r)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			relay.putBack(controls[i:])
			return err
		}
		if err != nil {
			return c.fail(err)
		}
	}
	if dead != nil || !c.needsRekey() {
		return c.fail(dead)
	}
	err := c.renewKey()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return c.fail(err)
}

// controlsDue reports whether flush has something to do. Caller holds c.out.
func (c *Conn) controlsDue() bool { return c.tap.relay.Load().due() || c.needsRekey() }

// sendControl sends a control record of the relay. Caller holds c.out.
func (c *Conn) sendControl(r control) error {
	if r.typ == recordHandshake {
		return c.updateKey()
	}
	return c.kernel.sendControl(r.typ, r.body, true)
}

// flushControls sends pending control records, unless somebody else is sending. They then
// send the records. The next call, or Close, returns an error.
func (c *Conn) flushControls() {
	for c.tap.relay.Load().due() && c.out.TryLock() {
		goOn := c.flush() == nil && !c.out.open
		callAll(c.out.release())
		if !goOn {
			return
		}
	}
}

// flushInRead is flushControls for when crypto/tls reads, under its own locks. No
// function of the Options may be called here.
func (c *Conn) flushInRead() {
	for c.tap.relay.Load().due() && c.out.TryLock() {
		goOn := c.flush() == nil && !c.out.open
		c.out.afterRead.Store(len(c.out.notices) > 0)
		c.out.Unlock()
		if !goOn {
			return
		}
	}
}

// tellAfterRead calls the notices that flushInRead has left. If somebody else has c.out
// now, they call the notices.
func (c *Conn) tellAfterRead() {
	if c.out.afterRead.Swap(false) && c.out.TryLock() {
		callAll(c.out.release())
	}
}
