package ktls

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A waitTimer helps a call that waits for room, which otherwise might wait for ever.
//
// It uncorks the connection, so that TCP sends what it holds back. That should not be
// needed. But when there is room, the TLS layer of Linux 6.1 goes on with a record that
// TCP had refused, and promises more data, as the sendfile(2) that began the record did.
// TCP keeps what it gets. If that is too much for room to be reported (4 KiB of
// SO_SNDBUF, or tcp_notsent_lowat), nobody ever sends it. Uncorking too late, during the
// next call, does no harm.
//
// It also has room reported again. If there is no memory for a record (tcp_mem, or the
// limit of a control group), the TLS layer answers EAGAIN though the send buffer has room
// and may even be empty. Then no acknowledgment comes that would wake the poller: with
// tcp_mem exceeded by other connections, downloads stood still until TCP's keep-alive,
// for 15 s. (TCP alone always takes some bytes if it has none.)
type waitTimer struct {
	mu    sync.Mutex
	timer *time.Timer
	pause time.Duration // until it acts next, 0 if no call waits
}

// The pauses get longer, because clients may read slowly for hours. A call that lacks
// memory begins with the first pause each time. The kernel itself has calls that block
// try again after 100 ms on average.
//
// A client that reads 50 KB/s has a call wait for seconds, again and again. A timer that
// began with the short pause took a fifth of the server's instructions for it, and one
// that began with a second still some percent (bench, workload slow). So where much is
// under way, the pause is the longest from the beginning: an acknowledgment of it wakes
// the poller.
const (
	shortPause  = 50 * time.Millisecond
	pauseFactor = 4
	lastPause   = 10 * time.Second
)

// muchUnderWay is more than TCP holds back of data that do not fill a segment, in bytes.
const muchUnderWay = 64 << 10

// firstPause returns the pause for a call that begins to wait.
func firstPause(fd int) time.Duration {
	if n, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ); err == nil && n >= muchUnderWay {
		return lastPause
	}
	return shortPause
}

func (w *waitTimer) begin(s *socket, pause time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pause = pause
	if w.timer != nil {
		w.timer.Reset(w.pause)
		return
	}
	w.timer = time.AfterFunc(w.pause, func() {
		if w.again() {
			_ = s.control(reportRoom)
		}
	})
}

// again sets the timer once more. It reports whether a call still waits.
func (w *waitTimer) again() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pause == 0 {
		return false
	}
	w.pause = min(pauseFactor*w.pause, lastPause)
	w.timer.Reset(w.pause)
	return true
}

func (w *waitTimer) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pause > 0 {
		w.pause = 0
		w.timer.Stop()
	}
}

// reportRoom uncorks a connection, and wakes its poller if there is room: the kernel looks
// when TCP_NOTSENT_LOWAT is set, even to what it is. It fails if the connection is gone.
func reportRoom(fd int) error {
	_ = setCork(fd, false)
	lowat, err := unix.GetsockoptInt(fd, unix.SOL_TCP, unix.TCP_NOTSENT_LOWAT)
	if err != nil {
		return err
	}
	return unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_NOTSENT_LOWAT, lowat)
}
