package ktls

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// tcpClose is TCP_CLOSE of include/net/tcp_states.h.
const tcpClose = 7

func (s *socket) records() uint64 { return s.finished + s.span/maxPayload }

// count follows how the kernel makes records. The kernel fills one after the other, and
// finishes the last one when no more data are promised.
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

// unsent includes what the TLS layer holds. The kernel doesn't tell how much that is. But
// whatever the records take on the wire is either in the TLS layer or with TCP.
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

// checkEvery is how many bytes are sent between two checks that the connection still
// exists.
//
// When TCP refuses a record, the TLS layer reports the error only if the system call has
// taken nothing yet. Otherwise the bytes of the record count as sent and the error is
// forgotten, again in each call. After a reset that read(2) has reported, sendfile(2)
// would send all of a file to nobody (6.1, 6.12, 7.2).
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
		// The two numbers belong together if no acknowledgment came in between.
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
