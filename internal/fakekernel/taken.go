package fakekernel

import (
	"errors"
	"io/fs"
	"os"
)

// EnvTaken is the environment variable that names a file. The file gets a byte for each
// connection that a fake kernel takes, in any process with the same value. It is for
// tests, which can see in /proc/net/tls_stat only what a real kernel takes.
const EnvTaken = "KTLS_FAKE_TAKEN"

// countTaken counts a connection, if EnvTaken is set. It keeps no file open, because
// tests count descriptors.
func countTaken() error {
	name := os.Getenv(EnvTaken)
	if name == "" {
		return nil
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o666)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write([]byte{'+'})
	return err
}

// Taken returns how many connections fake kernels have taken.
func Taken() (int64, error) {
	info, err := os.Stat(os.Getenv(EnvTaken))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
