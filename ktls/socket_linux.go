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
)

// Numbers of include/uapi/linux/tls.h, under the header's names.
const (
	tlsTX            = 1 // TLS_TX
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
}

func newSocket(tcp *net.TCPConn) kernel {
	conn, err := tcp.SyscallConn()
	if err != nil {
		return nil // never happens with a connection that was accepted
	}
	return &socket{tcp: tcp, conn: conn}
}

func (s *socket) install(info []byte, overhead int) error {
	s.overhead = overhead
	if err := s.control(func(int) error { return nil }); err != nil {
		return err // closed: MultipathTCP would not tell
	}
	// Multipath TCP uses the upper layer protocol for itself.
	if multipath, err := s.tcp.MultipathTCP(); err != nil || multipath {
		return errors.Join(errMultipath, err)
	}
	return s.control(func(fd int) error {
		if err := setULP(fd); err != nil {
			return err
		}
		written, _, err := tcpBytes(fd)
		if err != nil {
			return err
		}
		s.base = written
		return setTX(fd, info)
	})
}

func (s *socket) rekey(info []byte) error {
	return s.control(func(fd int) error { return setTX(fd, info) })
}

func (s *socket) records() uint64 { return s.finished + s.span/maxPayload }

// setULP gives the socket the TLS layer. It may have it from an earlier try:
// plain data keep passing until a key is set.
func setULP(fd int) error {
	err := unix.SetsockoptString(fd, unix.SOL_TCP, unix.TCP_ULP, "tls")
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("ktls: set TCP_ULP: %w", os.NewSyscallError("setsockopt", err))
	}
	return nil
}

// setTX gives the socket its sending key. The option takes raw bytes. Of what
// x/sys offers a list of 8-byte words does: every crypto info has a multiple of
// 8 bytes, and unlike a string the list can be cleared.
func setTX(fd int, info []byte) error {
	words := make([]unix.CanFilter, len(info)/8)
	defer clear(words)
	for i := range words {
		words[i].Id = binary.NativeEndian.Uint32(info[8*i:])
		words[i].Mask = binary.NativeEndian.Uint32(info[8*i+4:])
	}
	if err := unix.SetsockoptCanRawFilter(fd, unix.SOL_TLS, tlsTX, words); err != nil {
		return fmt.Errorf("ktls: set TLS_TX: %w", os.NewSyscallError("setsockopt", err))
	}
	return nil
}

func (s *socket) send(p []byte, more bool) (sent int, err error) {
	flags := unix.MSG_NOSIGNAL
	if more {
		flags |= unix.MSG_MORE
	}
	for sent < len(p) && err == nil {
		err = s.write(true, "sendmsg", func(fd int) error {
			n, err := unix.SendmsgN(fd, p[sent:], nil, nil, flags)
			sent += max(n, 0)
			return err
		})
	}
	s.count(int64(sent), more)
	if err == nil {
		err = s.alive(int64(sent))
	}
	return sent, err
}

func (s *socket) sendControl(typ recordType, body []byte, wait bool) error {
	oob := recordTypeMessage(typ)
	err := s.write(wait, "sendmsg", func(fd int) error {
		_, err := unix.SendmsgN(fd, body, oob, nil, unix.MSG_NOSIGNAL)
		return err
	})
	if err == nil {
		s.count(int64(len(body)), false)
	}
	return err
}

// cork fails if the connection is gone, which the next call that sends tells.
func (s *socket) cork(on bool) {
	value := 0
	if on {
		value = 1
	}
	_ = s.control(func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_CORK, value) })
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

func (s *socket) sendFile(f File, offset, n int64) (sent int64, err error) {
	file, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	err = s.write(true, "sendfile", func(fd int) error {
		var err error
		// Control keeps the file open while the kernel reads it.
		if ctlErr := file.Control(func(in uintptr) {
			var m int
			m, err = unix.Sendfile(fd, int(in), &offset, int(n))
			sent = int64(max(m, 0))
		}); ctlErr != nil {
			return ctlErr
		}
		return err
	})
	s.count(sent, sent < n)
	// File systems that can't splice refuse.
	if errors.Is(err, unix.EINVAL) {
		err = errors.ErrUnsupported
	}
	if err == nil {
		err = s.alive(sent)
	}
	return sent, err
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
func (s *socket) unsent() (q queue, err error) {
	err = s.control(func(fd int) error {
		written, acked, err := tcpBytes(fd)
		if err != nil {
			return err
		}
		end := s.base + s.wire + s.span
		q = queue{bytes: int(max(end, written) - acked), acked: acked}
		return nil
	})
	return q, err
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
		_, err := tcpInfo(fd)
		return err
	})
}

// tcpInfo returns an error that matches net.ErrClosed if the connection is gone.
func tcpInfo(fd int) (*unix.TCPInfo, error) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
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
func tcpBytes(fd int) (written, acked uint64, err error) {
	for before := ^uint64(0); ; before = acked {
		info, err := tcpInfo(fd)
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
func (s *socket) write(wait bool, name string, f func(fd int) error) error {
	var err error
	writeErr := s.conn.Write(func(fd uintptr) bool {
		for {
			if err = f(int(fd)); !errors.Is(err, unix.EINTR) {
				break
			}
		}
		return !wait || !errors.Is(err, unix.EAGAIN)
	})
	switch {
	case writeErr != nil:
		return writeErr
	case errors.Is(err, unix.EAGAIN):
		return errWouldBlock
	default:
		return os.NewSyscallError(name, err)
	}
}
