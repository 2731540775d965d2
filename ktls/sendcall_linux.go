package ktls

import (
	"errors"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// An output is a system call that sends, with its arguments and results. A
// socket has one, for whoever holds the connection's out: closures would be
// allocated in every call.
type output struct {
	socket *socket

	call func(*output) // sendmsg or sendfile
	name string
	wait bool // for room

	corked bool
	nudge  nudge
	place  place // in sendfile(2)
	fd     int
	err    error

	p, oob []byte // sendmsg: what is left, and its control message
	flags  int

	file      syscall.RawConn // sendfile
	in        int             // its descriptor
	offset, n int64
	sent      int64

	header []byte // sendFrames: what comes before each frame, of which p is left
	frame  int64  // its content, of which n is left
	frames int    // that are left

	// Methods, since a method value is a closure too.
	try    func(fd uintptr) bool
	opened func(in uintptr)
	framed func(in uintptr)
	splice func() int64
}

func (s *socket) output() *output {
	if s.out == nil {
		o := &output{socket: s, place: place{limiter: limiter}}
		o.try, o.opened, o.framed, o.splice = o.tryOnce, o.sendOpened, o.sendFramed, o.sendSpliced
		s.out = o
	}
	return s.out
}

// tryOnce reports whether the call is done, rather than to be tried again when
// there is room.
func (o *output) tryOnce(fd uintptr) bool {
	o.fd = int(fd)
	for {
		if o.err = o.socket.faulty(o.name); o.err == nil {
			o.call(o)
		}
		if !errors.Is(o.err, unix.EINTR) {
			break
		}
	}
	if !o.wait || !errors.Is(o.err, unix.EAGAIN) {
		return true
	}
	o.push()
	o.nudge.begin(o.socket)
	return false
}

// push has TCP send what it holds back: because the connection is corked, or
// because sendfile promises more after what does not fill a segment. Else the send
// buffer may have no room for the next record until a timer of 200 ms ends, for
// each record (4 KiB over loopback: 41 s for 3 MiB). It fails if the connection is
// gone, which the next call tells.
func (o *output) push() {
	_ = setCork(o.fd, false)
	o.corked = false
}

// A nudge pushes, while a call waits for room, what TCP has not sent. It should
// not be needed. But when there is room, the TLS layer of Linux 6.1 goes on with a
// record that TCP had refused, and promises more, as the sendfile(2) that had begun
// the record: TCP keeps what it gets, and if that is too much for room to be
// reported (4 KiB of SO_SNDBUF, or tcp_notsent_lowat), nobody ever pushes. A push
// that comes too late, during the next call, does no harm.
type nudge struct {
	mu    sync.Mutex
	timer *time.Timer
	pause time.Duration // until the next time, 0 if no call waits
}

// Clients may read slowly for hours, so the pauses get longer.
const (
	firstNudge = 50 * time.Millisecond
	lastNudge  = 10 * time.Second
)

func (n *nudge) begin(s *socket) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pause = firstNudge
	if n.timer != nil {
		n.timer.Reset(n.pause)
		return
	}
	n.timer = time.AfterFunc(n.pause, func() {
		if n.again() {
			_ = s.control(func(fd int) error { return setCork(fd, false) })
		}
	})
}

func (n *nudge) again() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.pause == 0 {
		return false
	}
	n.pause = min(2*n.pause, lastNudge)
	n.timer.Reset(n.pause)
	return true
}

func (n *nudge) end() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.pause > 0 {
		n.pause = 0
		n.timer.Stop()
	}
}

func (o *output) sendmsg() {
	var n int
	n, o.err = unix.SendmsgN(o.fd, o.p, o.oob, nil, o.flags)
	o.p = o.p[max(n, 0):]
}

// errNoPlace says that sendfile(2) has to wait for its place, which is not done
// here, where the socket can't be closed.
var errNoPlace = errors.New("ktls: no place in the limiter")

func (o *output) sendfile() {
	if o.n >= limiterUnit && !o.place.tryEnter() {
		o.err = errNoPlace
		return
	}
	// Control keeps the file open while the kernel reads it.
	if err := o.file.Control(o.opened); err != nil {
		o.err = err
	}
}

func (o *output) sendOpened(in uintptr) {
	o.in = int(in)
	if o.n < limiterUnit {
		o.sent = o.splice()
		return
	}
	o.sent = o.place.run(o.n, o.splice)
}

func (o *output) sendSpliced() int64 {
	var n int
	n, o.err = unix.Sendfile(o.fd, o.in, &o.offset, int(o.n))
	return int64(max(n, 0))
}

// sendFrames goes on with the frames that are left.
func (o *output) sendFrames() {
	if err := o.file.Control(o.framed); err != nil {
		o.err = err
	}
}

func (o *output) sendFramed(in uintptr) {
	o.in = int(in)
	for o.frames > 0 {
		if len(o.p) > 0 {
			o.name = "sendmsg"
			if o.err = o.socket.faulty(o.name); o.err == nil {
				o.sendmsg()
			}
			if o.err != nil {
				return
			}
			continue
		}
		o.name = "sendfile"
		if o.err = o.socket.faulty(o.name); o.err != nil {
			return
		}
		n := o.sendSpliced()
		if n == 0 {
			return // an error, or the end of the file
		}
		o.sent += n
		if o.n -= n; o.n == 0 {
			o.frames--
			o.p, o.n = o.header, o.frame
		}
	}
}
