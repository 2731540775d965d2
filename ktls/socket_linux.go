package ktls

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Numbers of include/uapi/linux/tls.h, under the header's names.
const (
	tlsTX            = 1 // TLS_TX; when read, it begins with version and cipher type
	tlsSetRecordType = 1 // TLS_SET_RECORD_TYPE, for sendmsg(2)
)

// A socket is a TCP socket. All system calls go through here. They never block in the
// kernel: the runtime's poller waits, under the connection's deadlines.
type socket struct {
	tcp  *net.TCPConn
	conn syscall.RawConn

	// These tell how much the TLS layer holds, see unsent.
	base     uint64 // bytes that TCP had been given when the key was set
	finished uint64 // records finished since then
	wire     uint64 // their bytes on the wire
	span     uint64 // content of the records since, of which the last may be open
	overhead int    // bytes of a record besides its content

	unchecked int64 // bytes sent since the last look at the connection

	sending *sendCall // made when first needed

	// fault, if not nil, may make a system call fail, with an error that is returned
	// instead of making the call. Only tests set it.
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

// verifyULP asks the kernel which layer is set. In some sandboxes setsockopt(2) succeeds
// and does nothing. The check comes first, because in such a sandbox other calls fail and
// don't say why: gVisor has no SIOCOUTQ. No key is set yet, so after any error plain data
// still pass.
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

// verifyTX asks the kernel which key is set. When asked for 4 bytes, the kernel tells
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

var errOtherULP = errors.New("ktls: TCP_ULP is not tls")

// unconfirmed returns an error that says what the kernel has answered, a value or an
// error.
func unconfirmed(what error, value string, err error) error {
	if err != nil {
		return fmt.Errorf("%w: %w", what, os.NewSyscallError("getsockopt", err))
	}
	return fmt.Errorf("%w: %s", what, value)
}

func (s *socket) rekey(info []byte) error {
	return s.control(func(fd int) error { return s.setTX(fd, info) })
}

// faulty returns the error with which a test makes a system call fail.
func (s *socket) faulty(call string) error {
	if s.fault == nil {
		return nil
	}
	return s.fault(call)
}

// setULP gives the socket the TLS layer. The socket may have it from an earlier try.
// Plain data keep passing until a key is set.
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

// setTX gives the socket its sending key. The option takes raw bytes. Of what x/sys
// offers, a list of 8-byte words fits: every crypto info is a multiple of 8 bytes long,
// and unlike a string the list can be cleared.
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

// control runs a system call that can't block.
func (s *socket) control(f func(fd int) error) error {
	var err error
	if ctlErr := s.conn.Control(func(fd uintptr) { err = f(int(fd)) }); ctlErr != nil {
		return ctlErr
	}
	return err
}
