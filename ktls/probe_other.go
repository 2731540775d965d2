//go:build !linux

package ktls

import "runtime"

func probe() (Support, error) {
	return Support{}, &UnsupportedError{Cause: "it is a feature of Linux, and this is " + runtime.GOOS}
}

func unsupported(err error, _ string) error { return err }
