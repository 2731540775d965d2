//go:build fakekernel

package ktls

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/caddy-ktls/caddy-ktls/internal/fakekernel"
	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
)

// With the build tag fakekernel a fake kernel makes the records in user space. Everything
// else works as with kernel TLS. It is for tests only.

func probeKernel() (Support, error) { return probeSuites(openKernel) }

var _ = probe // only the real kernel needs it

func openKernel(tcp *net.TCPConn) kernel {
	return &fakeSocket{
		tcp:    tcp,
		system: newSocket(tcp),
		fake: fakekernel.Kernel{Wire: tcp, Complain: func(format string, arguments ...any) {
			panic(fmt.Sprintf(format, arguments...))
		}},
	}
}

// A fakeSocket makes records with a fake kernel, and asks the system for what a plain TCP
// socket can tell.
type fakeSocket struct {
	tcp    *net.TCPConn
	system kernel
	fake   fakekernel.Kernel
}

func (s *fakeSocket) setKey(info []byte, overhead int) error {
	// A kernel would refuse.
	if multipath, err := s.tcp.MultipathTCP(); err != nil || multipath {
		return errors.Join(errMultipath, err)
	}
	return s.fake.SetKey(info, overhead)
}

func (s *fakeSocket) rekey(info []byte) error               { return s.fake.Rekey(info) }
func (s *fakeSocket) records() uint64                       { return s.fake.Counts().Records }
func (s *fakeSocket) send(p []byte, more bool) (int, error) { return s.fake.Send(p, more) }
func (s *fakeSocket) cork(on bool)                          { s.fake.Cork(on) }
func (s *fakeSocket) unsent() (int, error)                  { return s.system.unsent() }
func (s *fakeSocket) acked() (uint64, error)                { return s.system.acked() }

// mostFile is the most that one sendFile sends. Like a socket whose buffer is full, it
// leaves the rest for later, and an open record.
const mostFile = 300_000

// sendFile gets the bytes of the file by sendfile(2), so that file systems, sandboxes and
// slow disks behave as they would with kernel TLS.
func (s *fakeSocket) sendFile(part filerange.Segment, _ waiter) (int64, error) {
	b, err := splice(part.File, part.Offset, min(part.Len, mostFile))
	switch {
	case err == nil:
		return s.fake.SendFile(bytes.NewReader(b), 0, part.Len)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EPERM), errors.Is(err, errors.ErrUnsupported):
		return 0, ErrNoSendfile
	default:
		return 0, err
	}
}

func (s *fakeSocket) sendFrames(header []byte, part filerange.Segment, payload int64) (int64, error) {
	return s.fake.SendFrames(header, payload, int(part.Len/payload), func(done, left int64) (int64, error) {
		return s.sendFile(filerange.Segment{File: part.File, Offset: part.Offset + done, Len: left}, nil)
	})
}

// splice has the kernel send a part of a file to memory. If no descriptor is free, it
// reads the part.
func splice(f filerange.File, offset, n int64) ([]byte, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("fakekernel", unix.MFD_CLOEXEC)
	if errors.Is(err, unix.EMFILE) {
		return io.ReadAll(io.NewSectionReader(f, offset, n))
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	memory := os.NewFile(uintptr(fd), "fakekernel")
	defer memory.Close()
	sent := 0
	ctlErr := raw.Control(func(in uintptr) {
		for {
			if sent, err = unix.Sendfile(fd, int(in), &offset, int(n)); !errors.Is(err, unix.EINTR) {
				return
			}
		}
	})
	if ctlErr != nil {
		return nil, ctlErr
	}
	if err != nil {
		return nil, os.NewSyscallError("sendfile", err)
	}
	b := make([]byte, sent)
	_, err = memory.ReadAt(b, 0)
	return b, err
}

// sendControl without wait fails unless poll(2) reports room. There is then room for a
// whole control record, because it is small.
func (s *fakeSocket) sendControl(typ recordType, body []byte, wait bool) error {
	if !wait {
		room, err := s.room()
		if err != nil {
			return err
		}
		if !room {
			return errWouldBlock
		}
	}
	return s.fake.SendControl(byte(typ), body)
}

func (s *fakeSocket) room() (room bool, err error) {
	raw, err := s.tcp.SyscallConn()
	if err != nil {
		return false, err
	}
	ctlErr := raw.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		_, err = unix.Poll(poll, 0)
		room = poll[0].Revents != 0 // set for an error too, which the write reports
	})
	return room, errors.Join(ctlErr, err)
}
