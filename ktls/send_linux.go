package ktls

import (
	"encoding/binary"
	"errors"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
)

func (s *socket) send(p []byte, more bool) (sent int, err error) {
	c := s.call()
	c.message = message{left: p, flags: unix.MSG_NOSIGNAL}
	if more {
		c.message.flags |= unix.MSG_MORE
	}
	for len(c.message.left) > 0 && err == nil {
		err = c.run(true, "sendmsg", (*sendCall).sendmsg)
	}
	sent = len(p) - len(c.message.left)
	c.message.left = nil
	s.count(int64(sent), more)
	if err == nil {
		err = s.alive(int64(sent))
	}
	return sent, err
}

func (s *socket) sendControl(typ recordType, body []byte, wait bool) error {
	c := s.call()
	c.message = message{left: body, control: recordTypeMessage(typ), flags: unix.MSG_NOSIGNAL}
	err := c.run(wait, "sendmsg", (*sendCall).sendmsg)
	c.message = message{}
	if err == nil {
		s.count(int64(len(body)), false)
	}
	return err
}

// recordTypeMessage returns the control message (cmsg(3)) that sets a record's type.
func recordTypeMessage(typ recordType) []byte {
	b := make([]byte, 0, unix.CmsgSpace(1))
	if strconv.IntSize == 64 {
		b = binary.NativeEndian.AppendUint64(b, uint64(unix.CmsgLen(1)))
	} else {
		b = binary.NativeEndian.AppendUint32(b, uint32(unix.CmsgLen(1)))
	}
	b = binary.NativeEndian.AppendUint32(b, unix.SOL_TLS)
	b = binary.NativeEndian.AppendUint32(b, tlsSetRecordType)
	b = append(b, byte(typ))
	return b[:cap(b)]
}

func (s *socket) sendFile(part filerange.Segment, w waiter) (sent int64, err error) {
	raw, err := part.File.SyscallConn()
	if err != nil {
		return 0, err
	}
	c := s.call()
	f := &c.file
	f.raw, f.offset, f.n, f.sent = raw, part.Offset, part.Len, 0
	for {
		err = c.run(true, "sendfile", (*sendCall).sendfile)
		if !errors.Is(err, errNoPlace) {
			break
		}
		if err = f.place.enter(f.n, w); err != nil {
			break
		}
	}
	f.place.leave() // the call may have failed before it started
	f.raw = nil
	sent = f.sent
	s.count(sent, sent < part.Len)
	if err != nil {
		return sent, refused(err, part.Rest(sent), sent == 0)
	}
	return sent, s.alive(sent)
}

func (s *socket) sendFrames(header []byte, part filerange.Segment, payload int64) (sent int64, err error) {
	raw, err := part.File.SyscallConn()
	if err != nil {
		return 0, err
	}
	c := s.call()
	f := &c.file
	count := int(part.Len / payload)
	c.message = message{left: header, flags: unix.MSG_NOSIGNAL | unix.MSG_MORE}
	f.raw, f.offset, f.n, f.sent = raw, part.Offset, payload, 0
	c.frames.header, c.frames.payload, c.frames.left = header, payload, count
	err = c.run(true, "sendmsg", (*sendCall).sendFrames)
	left := c.frames.left
	for range count - left {
		s.count(int64(len(header))+payload, false)
	}
	if left > 0 {
		s.count(int64(len(header)-len(c.message.left))+payload-f.n, true)
	}
	begun := f.n < payload
	sent = f.sent
	f.raw, c.message.left, c.frames.header = nil, nil, nil
	switch {
	case err == nil:
		return sent, s.alive(sent)
	case c.name == "sendfile":
		err = refused(err, part.Rest(sent), !begun)
	}
	return sent, err
}

// refused returns ErrNoSendfile for an error of sendfile(2) after which the file can
// still be read. rest is what was not sent. whole says that the call has sent no part of
// something that must be completed.
func refused(err error, rest filerange.Segment, whole bool) error {
	switch {
	// File systems that can't splice refuse, and so may a sandbox.
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EPERM), errors.Is(err, errors.ErrUnsupported):
		return ErrNoSendfile
	// These may come from the file system too. Then read(2) may do better.
	case whole && (errors.Is(err, unix.EIO) || errors.Is(err, unix.ENOMEM)) && readable(rest):
		return ErrNoSendfile
	}
	return err
}

// readable reports whether the beginning of a part of a file can be read.
func readable(part filerange.Segment) bool {
	_, err := part.File.ReadAt(make([]byte, 1), part.Offset)
	return err == nil
}

func (s *socket) cork(on bool) {
	c := s.call()
	if on == c.corked {
		return
	}
	// It fails if the connection is gone, which the next call that sends reports.
	_ = s.control(func(fd int) error { return setCork(fd, on) })
	c.corked = on
}

func setCork(fd int, on bool) error {
	value := 0
	if on {
		value = 1
	}
	return unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_CORK, value)
}
