package ktls

import (
	"errors"

	"golang.org/x/sys/unix"
)

func probe() (Support, error) { return probeSuites(newSocket) }

// unsupported returns what a refusal means, unless resources were short.
func unsupported(err error, cause string) error {
	for _, transient := range []error{unix.ENOMEM, unix.ENOBUFS, unix.EMFILE, unix.ENFILE, unix.EINTR} {
		if errors.Is(err, transient) {
			return err
		}
	}
	return &UnsupportedError{Cause: cause, Err: err}
}
