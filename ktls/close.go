package ktls

import (
	"errors"
	"net"
	"os"
	"syscall"
	"time"
)

var (
	errUnfinished = errors.New("ktls: closed in the middle of a file")
	errWriteShut  = errors.New("ktls: write after CloseWrite")
)

// closeTimeout limits the wait for close_notify to be sent, as in crypto/tls.
const closeTimeout = 5 * time.Second

// Close sends close_notify, if nothing has failed, and closes the connection. It
// interrupts calls of Write, ReadFrom, SendFile and CloseWrite that are under way. The
// connection then ends without close_notify.
//
// Close does not wait for the peer. What is still to be sent is sent in the background,
// see [Server.Wait]. Only a connection that is not offloaded may take 5 seconds for
// close_notify, as in crypto/tls, and 5 more if a Read is answering a KeyUpdate. A
// SendFile that waits for a disk goes on waiting, and keeps the descriptor until then,
// but the peer sees the end at once.
func (c *Conn) Close() error {
	if c.closed.Swap(true) {
		return net.ErrClosed
	}
	c.deadline.wake()
	if c.decide(NotNeeded) {
		defer c.tellDecided(NotNeeded, nil)
	}
	if c.State() != Offloaded {
		return c.closeTLS()
	}
	if !c.out.TryLock() {
		if c.calls.Load() > 0 {
			return c.interrupt()
		}
		// An answer to a KeyUpdate, or an alert, is waiting for room. It is no longer
		// needed, but what was accepted before it is.
		_ = c.raw.SetWriteDeadline(time.Unix(1, 0))
		c.drainInBackground()
		return nil
	}
	known := c.known()
	done, err := c.finish()
	callAll(c.out.release())
	switch {
	case !done && err == nil:
		c.drainInBackground()
		return nil
	case err != nil && !known && !isGone(err):
		c.tellLost(err)
	}
	return c.shut()
}

// closeTLS closes a connection that is not offloaded.
func (c *Conn) closeTLS() error {
	// crypto/tls waits for a reader that answers a KeyUpdate, and sets no limit itself.
	_ = c.raw.SetWriteDeadline(time.Now().Add(closeTimeout))
	err := c.tls.Close()
	c.forget()
	return err
}

// interrupt closes the socket while somebody is sending. A system call that waits for a
// disk keeps the socket until it returns, so interrupt does not wait for it.
func (c *Conn) interrupt() error {
	if tcp, ok := c.raw.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
	}
	c.forget()
	go func() { _ = c.shut() }()
	return nil
}

// shut closes the socket at once and forgets the secrets.
func (c *Conn) shut() error {
	err := c.raw.Close()
	c.forget()
	if f := c.server.options.Closed; f != nil {
		f(c)
	}
	return err
}

func (c *Conn) tellLost(err error) {
	if f := c.server.options.Lost; f != nil {
		f(c, err)
	}
}

// known reports whether the user of the connection has been told that it does not end in
// order. Caller holds c.out.
func (c *Conn) known() bool {
	return c.out.told && !errors.Is(c.out.err, errWriteShut) || c.out.open
}

// isGone reports whether an error says that the peer has left. The peer does not want
// what it has not taken.
func isGone(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

// finish sends close_notify if it has not been sent and there is room for it. done means
// that close_notify is out and the peer has acknowledged everything before it. close(2)
// leaves the rest to TCP, and nobody need wait for a peer that is gone. An error says
// that there is no point in waiting. Caller holds c.out.
func (c *Conn) finish() (done bool, err error) {
	_ = c.raw.SetWriteDeadline(time.Time{}) // the one that was set is about something else
	if c.out.open {
		return false, c.fail(errUnfinished)
	}
	fine := c.out.err == nil || errors.Is(c.out.err, errWriteShut)
	full := fine && !c.out.notified && c.tap.relay.Load().due() && errors.Is(c.sendAlerts(), errWouldBlock)
	if !full && !c.out.notified && !errors.Is(c.out.err, errAlertSent) {
		if c.out.err != nil && !errors.Is(c.out.err, errWriteShut) {
			return false, c.out.err
		}
		err := c.kernel.sendControl(recordAlert, closeNotify[:], false)
		full = errors.Is(err, errWouldBlock)
		if err != nil && !full {
			return false, c.fail(err)
		}
		c.out.notified = !full
	}
	unsent, err := c.kernel.unsent()
	return err == nil && !full && unsent <= c.renewal.suite.alertLen(), err
}

// sendAlerts sends alerts that crypto/tls has left and nobody has sent yet, if there is
// room for them. They say more than close_notify. Caller holds c.out.
func (c *Conn) sendAlerts() error {
	relay := c.tap.relay.Load()
	controls, dead := relay.take()
	for i, r := range controls {
		if r.typ != recordAlert {
			continue
		}
		if err := c.kernel.sendControl(r.typ, r.body, false); errors.Is(err, errWouldBlock) {
			relay.putBack(controls[i:])
			return err
		}
	}
	if dead != nil {
		c.out.err = dead
	}
	return nil
}

// CloseWrite sends close_notify, and waits up to 5 seconds for room to do so. If that is
// not enough, Close sends it. The connection can still be read. CloseWrite does not shut
// down the TCP connection. Neither does (*tls.Conn).CloseWrite.
func (c *Conn) CloseWrite() error {
	c.lock()
	defer c.unlock()
	if c.State() != Offloaded {
		return c.tls.CloseWrite()
	}
	if c.out.notified {
		return nil
	}
	_ = c.raw.SetWriteDeadline(time.Now().Add(closeTimeout))
	err := c.flush()
	if c.out.err != nil && !errors.Is(c.out.err, errWriteShut) {
		return c.out.err
	}
	if c.out.open {
		return c.fail(errUnfinished)
	}
	if err == nil || errors.Is(err, errWriteShut) {
		err = c.kernel.sendControl(recordAlert, closeNotify[:], true)
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return c.fail(err)
	}
	c.out.notified = err == nil
	c.out.err = errWriteShut // even if close_notify is sent later
	return err
}
