package ktls

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
)

// Numbers of include/uapi/linux/tls.h, under the header's names.
const (
	tlsTX            = 1 // TLS_TX; read, it begins with version and cipher type
	tlsSetRecordType = 1 // TLS_SET_RECORD_TYPE
)

// tcpClose is TCP_CLOSE of include/net/tcp_states.h.
const tcpClose = 7

// A socket is a TCP socket; all system calls go through here. They never block
// in the kernel: the runtime's poller waits, under the connection's deadlines.
type socket struct {
	tcp  *net.TCPConn
	conn syscall.RawConn

	// What tells how much the TLS layer holds, see unsent.
	base     uint64 // bytes that TCP had been given when the key was set
	finished uint64 // records since then
	wire     uint64 // and their bytes
	span     uint64 // content of records of which the last may be open
	overhead int    // bytes of a record beside its content

	unchecked int64 // bytes sent since the last look at the connection

	out *output // made when first needed

	// fault, if not nil, may have a system call fail, by an error that is
	// returned in its place. Set by tests only.
	fault func(call string) error
}

func newSocket(tcp *net.TCPConn) kernel {
	conn, err := tcp.SyscallConn()
	if err != nil {
		return nil // never happens with a connection that was accepted
	}
	return &socket{tcp: tcp, conn: conn}
}

func (s *socket) setKey(info []byte, overhead int) error {
	s.overhead = overhead
	if err := s.control(func(int) error { return nil }); err != nil {
		return err // closed: MultipathTCP would not tell
	}
	// Multipath TCP uses the upper layer protocol for itself.
	if multipath, err := s.tcp.MultipathTCP(); err != nil || multipath {
		return errors.Join(errMultipath, err)
	}
	return s.control(func(fd int) error {
		if err := s.setULP(fd); err != nil {
			return err
		}
		if err := s.verifyULP(fd); err != nil {
			return err
		}
		written, _, err := s.tcpBytes(fd)
		if err != nil {
			return err
		}
		s.base = written
		if err := s.setTX(fd, info); err != nil {
			return err
		}
		return s.verifyTX(fd, info)
	})
}

// verifyULP asks the kernel for the layer that it was given. There are sandboxes in
// which setsockopt(2) succeeds and does nothing. It comes first, because other calls
// fail in such a one and don't tell why: gVisor has no SIOCOUTQ. No key is set yet, so
// after any error plain data pass.
func (s *socket) verifyULP(fd int) error {
	ulp, err := "", s.faulty("get TCP_ULP")
	if err == nil {
		ulp, err = unix.GetsockoptString(fd, unix.SOL_TCP, unix.TCP_ULP)
	}
	switch {
	case err == nil && ulp == "tls":
		return nil
	case err == nil && ulp == "", errors.Is(err, unix.ENOPROTOOPT): // gVisor has no such option
		return unconfirmed(errInert, "TCP_ULP is not set", err)
	}
	return unconfirmed(errOtherULP, fmt.Sprintf("%q", ulp), err)
}

// verifyTX asks the kernel for the key that it was given. Asked for 4 bytes, it tells
// version and cipher type, but not the key.
func (s *socket) verifyTX(fd int, info []byte) error {
	head, err := 0, s.faulty("get TLS_TX")
	if err == nil {
		head, err = unix.GetsockoptInt(fd, unix.SOL_TLS, tlsTX)
	}
	if err != nil || uint32(head) != binary.NativeEndian.Uint32(info) {
		return unconfirmed(errDoubtful, fmt.Sprintf("TLS_TX is %#x", uint32(head)), err)
	}
	return nil
}

var errOtherULP = errors.New("ktls: TCP_ULP is not the TLS layer")

// unconfirmed says what the kernel has answered, by a value or an error.
func unconfirmed(what error, value string, err error) error {
	if err != nil {
		return fmt.Errorf("%w: %w", what, os.NewSyscallError("getsockopt", err))
	}
	return fmt.Errorf("%w: %s", what, value)
}

func (s *socket) rekey(info []byte) error {
	return s.control(func(fd int) error { return s.setTX(fd, info) })
}

// faulty returns the error with which a test has a system call fail.
func (s *socket) faulty(call string) error {
	if s.fault == nil {
		return nil
	}
	return s.fault(call)
}

func (s *socket) records() uint64 { return s.finished + s.span/maxPayload }

// setULP gives the socket the TLS layer. It may have it from an earlier try:
// plain data keep passing until a key is set.
func (s *socket) setULP(fd int) error {
	err := s.faulty("TCP_ULP")
	if err == nil {
		err = unix.SetsockoptString(fd, unix.SOL_TCP, unix.TCP_ULP, "tls")
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("%w: %w", errSetULP, os.NewSyscallError("setsockopt", err))
	}
	return nil
}

// setTX gives the socket its sending key. The option takes raw bytes. Of what
// x/sys offers a list of 8-byte words does: every crypto info has a multiple of
// 8 bytes, and unlike a string the list can be cleared.
func (s *socket) setTX(fd int, info []byte) error {
	words := make([]unix.CanFilter, len(info)/8)
	defer clear(words)
	for i := range words {
		words[i].Id = binary.NativeEndian.Uint32(info[8*i:])
		words[i].Mask = binary.NativeEndian.Uint32(info[8*i+4:])
	}
	err := s.faulty("TLS_TX")
	if err == nil {
		err = unix.SetsockoptCanRawFilter(fd, unix.SOL_TLS, tlsTX, words)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errSetTX, os.NewSyscallError("setsockopt", err))
	}
	return nil
}

func (s *socket) send(p []byte, more bool) (sent int, err error) {
	o := s.output()
	o.p, o.flags = p, unix.MSG_NOSIGNAL
	if more {
		o.flags |= unix.MSG_MORE
	}
	for len(o.p) > 0 && err == nil {
		err = s.write(true, "sendmsg", (*output).sendmsg)
	}
	sent = len(p) - len(o.p)
	o.p = nil
	s.count(int64(sent), more)
	if err == nil {
		err = s.alive(int64(sent))
	}
	return sent, err
}

func (s *socket) sendControl(typ recordType, body []byte, wait bool) error {
	o := s.output()
	o.p, o.oob, o.flags = body, recordTypeMessage(typ), unix.MSG_NOSIGNAL
	err := s.write(wait, "sendmsg", (*output).sendmsg)
	o.p, o.oob = nil, nil
	if err == nil {
		s.count(int64(len(body)), false)
	}
	return err
}

func (s *socket) cork(on bool) {
	o := s.output()
	if on == o.corked {
		return
	}
	// It fails if the connection is gone, which the next call that sends tells.
	_ = s.control(func(fd int) error { return setCork(fd, on) })
	o.corked = on
}

func setCork(fd int, on bool) error {
	value := 0
	if on {
		value = 1
	}
	return unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_CORK, value)
}

// recordTypeMessage is the control message (cmsg(3)) that sets a record's type.
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
	file, err := part.File.SyscallConn()
	if err != nil {
		return 0, err
	}
	o := s.output()
	o.file, o.offset, o.n, o.sent = file, part.Offset, part.Len, 0
	for {
		err = s.write(true, "sendfile", (*output).sendfile)
		if !errors.Is(err, errNoPlace) {
			break
		}
		if err = o.place.enter(w); err != nil {
			break
		}
	}
	o.place.leave() // the call may have failed before it began
	o.file = nil
	sent = o.sent
	s.count(sent, sent < part.Len)
	if err != nil {
		return sent, refused(err, part.Rest(sent), sent == 0)
	}
	return sent, s.alive(sent)
}

func (s *socket) sendFrames(header []byte, part filerange.Segment, payload int64) (sent int64, err error) {
	file, err := part.File.SyscallConn()
	if err != nil {
		return 0, err
	}
	o := s.output()
	frames := int(part.Len / payload)
	o.file, o.offset, o.n, o.sent, o.flags = file, part.Offset, payload, 0, unix.MSG_NOSIGNAL|unix.MSG_MORE
	o.p, o.header, o.frame, o.frames = header, header, payload, frames
	err = s.write(true, "sendmsg", (*output).sendFrames)
	for range frames - o.frames {
		s.count(int64(len(header))+payload, false)
	}
	if o.frames > 0 {
		s.count(int64(len(header)-len(o.p))+payload-o.n, true)
	}
	begun := o.n < payload
	sent = o.sent
	o.file, o.p, o.header = nil, nil, nil
	switch {
	case err == nil:
		return sent, s.alive(sent)
	case o.name == "sendfile":
		err = refused(err, part.Rest(sent), !begun)
	}
	return sent, err
}

// refused returns ErrNoSendfile for an error of sendfile(2) after which the file can
// be read. rest is what was not sent. whole says that the call has sent nothing that would have to be continued.
func refused(err error, rest filerange.Segment, whole bool) error {
	switch {
	// File systems that can't splice refuse, and so may a sandbox.
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EPERM), errors.Is(err, errors.ErrUnsupported):
		return ErrNoSendfile
	// These may be the file system's too: then read(2) may do better.
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

// count follows how the kernel makes records: it fills one after the other, and
// finishes the last when no more is promised.
func (s *socket) count(n int64, more bool) {
	s.span += uint64(n)
	if more || s.span == 0 {
		return
	}
	records := (s.span + maxPayload - 1) / maxPayload
	s.finished += records
	s.wire += s.span + records*uint64(s.overhead)
	s.span = 0
}

// unsent includes what the TLS layer holds. The kernel doesn't tell how much
// that is, but what the records take on the wire is either there or with TCP.
func (s *socket) unsent() (n int, err error) {
	err = s.control(func(fd int) error {
		written, acked, err := s.tcpBytes(fd)
		if err != nil {
			return err
		}
		end := s.base + s.wire + s.span
		n = int(max(end, written) - acked)
		return nil
	})
	return n, err
}

func (s *socket) acked() (n uint64, err error) {
	err = s.control(func(fd int) error {
		info, err := s.tcpInfo(fd)
		if err == nil {
			n = info.Bytes_acked
		}
		return err
	})
	return n, err
}

// checkEvery is how many bytes are sent before the next look at whether the
// connection still exists.
//
// When TCP refuses a record, the TLS layer reports the error only if the system
// call has taken nothing yet. Else the record's bytes count as sent and the
// error is forgotten, again in each call: after a reset that read(2) has been
// told of, sendfile(2) would send all of a file to nobody (6.1, 6.12, 7.2).
const checkEvery = 1 << 20

// alive counts n bytes that were sent and returns an error if the connection
// turns out to be gone.
func (s *socket) alive(n int64) error {
	if s.unchecked += n; s.unchecked < checkEvery {
		return nil
	}
	s.unchecked = 0
	return s.control(func(fd int) error {
		_, err := s.tcpInfo(fd)
		return err
	})
}

// tcpInfo returns an error that matches net.ErrClosed if the connection is gone.
func (s *socket) tcpInfo(fd int) (info *unix.TCPInfo, err error) {
	if err = s.faulty("TCP_INFO"); err == nil {
		info, err = unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
	}
	if err != nil {
		return nil, os.NewSyscallError("getsockopt", err)
	}
	if info.State == tcpClose {
		return nil, fmt.Errorf("ktls: the peer has reset the connection: %w", net.ErrClosed)
	}
	return info, nil
}

// tcpBytes returns how many bytes TCP was given to send since the connection
// began, and how many of them the peer has acknowledged.
func (s *socket) tcpBytes(fd int) (written, acked uint64, err error) {
	for before := ^uint64(0); ; before = acked {
		info, err := s.tcpInfo(fd)
		if err != nil {
			return 0, 0, err
		}
		// The two numbers belong together if no acknowledgment came between.
		if acked = info.Bytes_acked; acked == before {
			return written, acked, nil
		}
		unacked, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
		if err != nil {
			return 0, 0, os.NewSyscallError("ioctl", err)
		}
		written = acked + uint64(unacked)
	}
}

// control runs a system call that can't block.
func (s *socket) control(f func(fd int) error) error {
	var err error
	if ctlErr := s.conn.Control(func(fd uintptr) { err = f(int(fd)) }); ctlErr != nil {
		return ctlErr
	}
	return err
}

// write runs a system call that sends, again when it was interrupted, and, with
// wait set, when there is room. f must not send anything when it fails.
func (s *socket) write(wait bool, name string, f func(*output)) error {
	o := s.output()
	o.call, o.name, o.wait, o.err = f, name, wait, nil
	writeErr := s.conn.Write(o.try)
	o.nudge.end()
	switch {
	case writeErr != nil:
		return writeErr
	case errors.Is(o.err, unix.EAGAIN):
		return errWouldBlock
	default:
		return os.NewSyscallError(o.name, o.err)
	}
}
