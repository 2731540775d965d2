package ktls

import (
	"crypto/rand"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

func probe() (Support, error) { return probeWith(nil) }

// probeWith has system calls fail as a test wants it.
func probeWith(fault func(call string) error) (Support, error) {
	var support Support
	var missing error
	for i := range suites {
		s := &suites[i]
		// The kind of certificate makes no difference to the kernel.
		if i > 0 && s.version == suites[i-1].version && s.kernel == suites[i-1].kernel {
			if support.Has(suites[i-1].id) {
				support.known |= 1 << i
			}
			continue
		}
		rekey, err := probeSuite(s, fault)
		switch {
		case err == nil:
			support.known |= 1 << i
			support.Rekey = support.Rekey || rekey
		case !errors.Is(err, errors.ErrUnsupported), errors.Is(err, errNoULP):
			return Support{}, err
		default:
			missing = errors.Join(missing, err)
		}
	}
	if support.Any() {
		return support, nil
	}
	return support, missing
}

var errNoULP = errors.New("the kernel's tls module is missing; as root try: modprobe tls")

// probeSuite sets a random key on a loopback connection, and another one to
// see whether that works too.
func probeSuite(s *suite, fault func(call string) error) (rekey bool, err error) {
	conn, other, err := loopback()
	if err != nil {
		return false, fmt.Errorf("ktls: probe: %w", err)
	}
	defer conn.Close()
	defer other.Close()
	k := &trafficKey{suite: s, key: make([]byte, s.keyLen), iv: make([]byte, 12)}
	_, _ = rand.Read(k.key) // never fails
	_, _ = rand.Read(k.iv)
	info := cryptoInfo(k, 0)

	raw, err := conn.SyscallConn()
	if err != nil {
		return false, fmt.Errorf("ktls: probe: %w", err)
	}
	sock := &socket{tcp: conn, conn: raw, fault: fault}
	if err := sock.control(sock.setULP); err != nil {
		return false, unsupported(err, errNoULP)
	}
	set := func(fd int) error { return sock.setTX(fd, info) }
	if err := sock.control(set); err != nil {
		return false, unsupported(err, fmt.Errorf("the kernel can't do %v", s))
	}
	return sock.control(set) == nil, nil
}

// unsupported adds what a refusal means, unless it is for want of resources.
func unsupported(err, meaning error) error {
	for _, transient := range []error{unix.ENOMEM, unix.ENOBUFS, unix.EMFILE, unix.ENFILE, unix.EINTR} {
		if errors.Is(err, transient) {
			return err
		}
	}
	return fmt.Errorf("%w: %w: %w", errors.ErrUnsupported, meaning, err)
}
