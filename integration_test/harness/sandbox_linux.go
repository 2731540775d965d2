package harness

import (
	"os"

	"golang.org/x/sys/unix"
)

// envSandbox puts a Caddy into a sandbox that lies: there setsockopt(2) for kernel TLS
// does nothing, and succeeds. In one kind of sandbox SIOCOUTQ is unknown, as in gVisor.
const envSandbox = "KTLS_TEST_SANDBOX"

// The kinds of sandboxes.
const (
	Lying  = "lying"
	GVisor = "gvisor"
)

// InSandbox puts a Caddy that has not been started into a sandbox.
func InSandbox(c *Caddy, kind string) { c.Env = append(c.Env, envSandbox+"="+kind) }

// beInSandbox puts this process into a sandbox.
func beInSandbox(kind string) error {
	const succeed = unix.SECCOMP_RET_ERRNO // with the error 0
	var program []unix.SockFilter
	if kind == GVisor {
		program = []unix.SockFilter{
			load(dataNumber), unless(unix.SYS_IOCTL, 3),
			load(dataArgument + 8), unless(unix.SIOCOUTQ, 1), give(unix.SECCOMP_RET_ERRNO | uint32(unix.ENOPROTOOPT)),
		}
	}
	_, err := installFilter(append(program,
		load(dataNumber), unless(unix.SYS_SETSOCKOPT, 7),
		load(dataArgument+8), unless(unix.SOL_TLS, 1), give(succeed),
		unless(unix.SOL_TCP, 3), load(dataArgument+2*8), unless(unix.TCP_ULP, 1), give(succeed),
		give(unix.SECCOMP_RET_ALLOW),
	), 0)
	if err != nil {
		return err
	}
	return tryLie()
}

// tryLie fails unless kernel TLS can be set on a socket where it never can be.
func tryLie() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptString(fd, unix.SOL_TCP, unix.TCP_ULP, "tls"); err != nil {
		return os.NewSyscallError("setsockopt of TCP_ULP", err)
	}
	return os.NewSyscallError("setsockopt of TLS_TX", unix.SetsockoptString(fd, unix.SOL_TLS, 1, "nothing"))
}
