package ktls

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// A sendCall is a system call that sends, with its arguments and results. A socket has
// one, for whoever holds Conn.out. Closures instead would be allocated anew in every
// call.
type sendCall struct {
	socket *socket

	do   func(*sendCall) // sendmsg, sendfile or sendFrames
	name string          // of the system call
	wait bool            // for room
	fd   int             // of the socket
	err  error

	message message
	file    filePart
	frames  frameRun

	calls   SystemCalls // made since systemCalls was last told
	corked  bool        // TCP_CORK is set
	waiting waitTimer

	try func(fd uintptr) bool // tryOnce: a method value is a closure too
}

// A message is what sendmsg(2) sends.
type message struct {
	left    []byte
	control []byte // the control message, see cmsg(3)
	flags   int
}

// A filePart is what sendfile(2) sends.
type filePart struct {
	raw       syscall.RawConn
	fd        int
	offset, n int64 // n is how many bytes are left or asked for
	sent      int64
	place     place // in the limiter

	opened func(fd uintptr) // sendOpened
	splice func() int64     // sendSpliced
}

// A frameRun is what sendFrames sends: headers and payloads in turn. What is left of the
// current header is in the message. What is left of the current payload is in the
// filePart.
type frameRun struct {
	header  []byte
	payload int64 // bytes
	left    int   // frames

	opened func(fd uintptr) // sendFramesOpened
}

// call returns the socket's sendCall.
func (s *socket) call() *sendCall {
	if s.sending == nil {
		c := &sendCall{socket: s}
		c.file.place.limiter = limiter
		c.try, c.file.opened, c.file.splice, c.frames.opened = c.tryOnce, c.sendOpened, c.sendSpliced, c.sendFramesOpened
		s.sending = c
	}
	return s.sending
}

// run runs a system call that sends. It runs it again after an interruption and, with
// wait set, when there is room. do must not send anything when it fails.
func (c *sendCall) run(wait bool, name string, do func(*sendCall)) error {
	c.do, c.name, c.wait, c.err = do, name, wait, nil
	writeErr := c.socket.conn.Write(c.try)
	c.waiting.end()
	c.tellCalls()
	switch {
	case writeErr != nil:
		return writeErr
	case errors.Is(c.err, unix.EAGAIN):
		return errWouldBlock
	default:
		return os.NewSyscallError(c.name, c.err)
	}
}

// tellCalls adds to systemCalls what this run has called. All processors share these, so
// each call does not.
func (c *sendCall) tellCalls() {
	if c.calls.Sendfile > 0 {
		systemCalls.sendfile.Add(c.calls.Sendfile)
	}
	if c.calls.Sendmsg > 0 {
		systemCalls.sendmsg.Add(c.calls.Sendmsg)
	}
	c.calls = SystemCalls{}
}

// tryOnce runs the call. It returns false if the call has to be tried again when there is
// room.
func (c *sendCall) tryOnce(fd uintptr) bool {
	c.fd = int(fd)
	for {
		if c.err = c.socket.faulty(c.name); c.err == nil {
			c.do(c)
		}
		if !errors.Is(c.err, unix.EINTR) {
			break
		}
	}
	if !c.wait || !errors.Is(c.err, unix.EAGAIN) {
		return true
	}
	c.push()
	c.waiting.begin(c.socket, firstPause(c.fd))
	return false
}

// push makes TCP send what it holds back, either because the connection is corked, or
// because sendfile promises more after what does not fill a segment. Without push, the
// send buffer may have no room for the next record until a timer of 200 ms ends, for each
// record (4 KiB over loopback: 41 s for 3 MiB). It fails if the connection is gone, which
// the next call reports.
func (c *sendCall) push() {
	_ = setCork(c.fd, false)
	c.corked = false
}

func (c *sendCall) sendmsg() {
	var n int
	c.calls.Sendmsg++
	n, c.err = unix.SendmsgN(c.fd, c.message.left, c.message.control, nil, c.message.flags)
	c.message.left = c.message.left[max(n, 0):]
}

// errNoPlace says that sendfile(2) has to wait for its place. It can't wait here, because
// the socket can't be closed meanwhile.
var errNoPlace = errors.New("ktls: no place in the limiter")

func (c *sendCall) sendfile() {
	if c.file.n >= limitedLen && !c.file.place.tryEnter(c.file.n) {
		c.err = errNoPlace
		return
	}
	// Control keeps the file open while the kernel reads it.
	if err := c.file.raw.Control(c.file.opened); err != nil {
		c.err = err
	}
}

func (c *sendCall) sendOpened(fd uintptr) {
	c.file.fd = int(fd)
	if c.file.n < limitedLen {
		c.file.sent = c.file.splice()
		return
	}
	c.file.sent = c.file.place.run(c.file.n, c.file.splice)
}

func (c *sendCall) sendSpliced() int64 {
	var n int
	c.calls.Sendfile++
	n, c.err = unix.Sendfile(c.fd, c.file.fd, &c.file.offset, int(c.file.n))
	return int64(max(n, 0))
}

// sendFrames goes on with the frames that are left.
func (c *sendCall) sendFrames() {
	if err := c.file.raw.Control(c.frames.opened); err != nil {
		c.err = err
	}
}

func (c *sendCall) sendFramesOpened(fd uintptr) {
	c.file.fd = int(fd)
	for c.frames.left > 0 {
		if len(c.message.left) > 0 {
			c.name = "sendmsg"
			if c.err = c.socket.faulty(c.name); c.err == nil {
				c.sendmsg()
			}
			if c.err != nil {
				return
			}
			continue
		}
		c.name = "sendfile"
		if c.err = c.socket.faulty(c.name); c.err != nil {
			return
		}
		n := c.sendSpliced()
		if n == 0 {
			return // an error, or the end of the file
		}
		c.file.sent += n
		if c.file.n -= n; c.file.n == 0 {
			c.frames.left--
			c.message.left, c.file.n = c.frames.header, c.frames.payload
		}
	}
}
