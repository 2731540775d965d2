package integration_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// envInjection names the file that tells a Caddy which of its system calls are to
// fail.
const envInjection = "KTLS_TEST_INJECTION"

// An injection has system calls of a Caddy fail, beginning with the one that
// follows so many others of its kind. It is what the file holds.
type injection struct {
	Call  injectedCall
	Errno int32
	Skip  int32
	Times int32 // how many calls fail
	// Serial differs for each injection.
	Serial int32
}

type injectedCall int32

const (
	noCall injectedCall = iota
	callULP
	callTX
	callSendfile
	callSendmsg
	callAccept
	callOpen
)

var injectionSize = int64(binary.Size(injection{}))

// inject has system calls of c fail from now on, and no others any more. c has to
// be injectable.
func (c *caddy) inject(t testing.TB, i injection) {
	t.Helper()
	c.injections++
	i.Serial = c.injections
	var b bytes.Buffer
	must(t, binary.Write(&b, binary.NativeEndian, i))
	f, err := os.OpenFile(c.getenv(envInjection), os.O_WRONLY, 0)
	must(t, err)
	must(t, f.Truncate(injectionSize)) // forget how many have failed
	_, err = f.WriteAt(b.Bytes(), 0)
	must(t, err)
	must(t, f.Close())
}

// injected returns how many system calls have failed since inject.
func (c *caddy) injected(t testing.TB) int {
	t.Helper()
	info, err := os.Stat(c.getenv(envInjection))
	must(t, err)
	return int(info.Size() - injectionSize)
}

// injectable prepares a Caddy that is yet to be started.
func (c *caddy) injectable(t testing.TB) {
	t.Helper()
	requireSeccomp(t)
	file := filepath.Join(c.dir, "injection")
	must(t, os.WriteFile(file, make([]byte, injectionSize), 0o600))
	c.env = append(c.env, envInjection+"="+file)
}

// The Caddy asks itself: its system calls of some kinds wait until a goroutine
// has said whether they are to be made (seccomp_unotify(2)).
func init() {
	name := os.Getenv(envInjection)
	if name == "" || os.Getenv(envCaddy) == "" {
		return
	}
	file, err := unix.Open(name, unix.O_RDWR|unix.O_APPEND|unix.O_CLOEXEC, 0)
	if err == nil {
		var listener int
		if listener, err = askForCalls(); err == nil {
			go answerCalls(listener, file)
			return
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(2)
}

// askForCalls installs the filter, for all threads.
func askForCalls() (listener int, err error) {
	const ask = unix.SECCOMP_RET_USER_NOTIF
	program := []unix.SockFilter{load(dataNumber)}
	for _, number := range []uint32{unix.SYS_SENDFILE, unix.SYS_SENDMSG, unix.SYS_ACCEPT4, unix.SYS_OPENAT} {
		program = append(program, unless(number, 1), give(ask))
	}
	program = append(program,
		unless(unix.SYS_SETSOCKOPT, 4),
		load(dataArgument+2*8), unless(unix.TCP_ULP, 1), give(ask), // of SOL_TCP, or another level's
		load(dataArgument+8), unless(unix.SOL_TLS, 1), give(ask),
		give(unix.SECCOMP_RET_ALLOW))
	return installFilter(program, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER|unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
}

// A notification is struct seccomp_notif, a verdict struct seccomp_notif_resp.
type notification struct {
	ID          uint64
	PID, Flags  uint32
	Number      int32
	Arch        uint32
	Instruction uint64
	Arguments   [6]uint64
}

type verdict struct {
	ID    uint64
	Value int64
	Error int32
	Flags uint32
}

// answerCalls makes no system call that it would have to answer itself. It adds a
// byte to the file for each that fails.
func answerCalls(listener, file int) {
	var last injection
	seen := int32(0)
	for {
		var n notification
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&n)))
		if errno == unix.EINTR || errno == unix.ENOENT {
			continue
		}
		if errno != 0 {
			fmt.Fprintln(os.Stderr, "injection:", errno)
			os.Exit(2)
		}
		current := readInjection(file)
		if current.Serial != last.Serial {
			last, seen = current, 0
		}
		a := verdict{ID: n.ID, Flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
		if n.call() == current.Call {
			if seen++; seen > current.Skip && seen-current.Skip <= current.Times {
				a.Flags, a.Error = 0, -current.Errno
				_, _ = unix.Write(file, []byte{1})
			}
		}
		// ENOENT: the thread has been interrupted, and will ask again.
		_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&a)))
	}
}

func readInjection(file int) (i injection) {
	b := make([]byte, injectionSize)
	if n, err := unix.Pread(file, b, 0); err == nil && n == len(b) {
		_, _ = binary.Decode(b, binary.NativeEndian, &i)
	}
	return i
}

func (n *notification) call() injectedCall {
	switch n.Number {
	case unix.SYS_SENDFILE:
		return callSendfile
	case unix.SYS_SENDMSG:
		return callSendmsg
	case unix.SYS_ACCEPT4:
		return callAccept
	case unix.SYS_OPENAT:
		return callOpen
	case unix.SYS_SETSOCKOPT:
		if n.Arguments[1] == unix.SOL_TLS {
			return callTX
		}
		if n.Arguments[1] == unix.SOL_TCP {
			return callULP
		}
	}
	return noCall
}
