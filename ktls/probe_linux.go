package ktls

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

func probe() (Support, error) { return probeSuites(newSocket) }

// unsupported adds what a refusal means, unless resources were short.
func unsupported(err, meaning error) error {
	for _, transient := range []error{unix.ENOMEM, unix.ENOBUFS, unix.EMFILE, unix.ENFILE, unix.EINTR} {
		if errors.Is(err, transient) {
			return err
		}
	}
	return fmt.Errorf("%w: %w: %w", errors.ErrUnsupported, meaning, err)
}
