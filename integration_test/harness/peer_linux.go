package harness

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// unread returns how many bytes a pipe holds.
func unread(pipe *os.File) (n int, err error) {
	raw, err := pipe.SyscallConn()
	if err != nil {
		return 0, err
	}
	ctlErr := raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	return n, errors.Join(ctlErr, err)
}
