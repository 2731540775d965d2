//go:build !linux

package ktls

import (
	"errors"
	"fmt"
	"runtime"
)

func probe() (Support, error) {
	return Support{}, fmt.Errorf("ktls: %w on %s: it is a feature of Linux", errors.ErrUnsupported, runtime.GOOS)
}

func unsupported(err, _ error) error { return err }
