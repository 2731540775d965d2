package harness

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// envInjection names the file that tells a Caddy which of its system calls must fail.
const envInjection = "KTLS_TEST_INJECTION"

// Often is how many times calls fail that should always fail.
const Often = 1 << 30

// An Injection makes system calls of a Caddy fail, beginning after so many others of
// their kind.
type Injection struct {
	Call  InjectedCall
	Errno int32
	Skip  int32
	Times int32 // how many calls fail
}

// An injectionFile is what the file holds.
type injectionFile struct {
	Injection
	Serial int32 // different for each Inject
}

// An InjectedCall is a kind of system calls.
type InjectedCall int32

// The kinds of system calls that can fail.
const (
	noCall InjectedCall = iota
	CallULP
	CallTX
	CallSendfile
	CallSendmsg
	CallAccept
	CallOpen
)

var injectionSize = int64(binary.Size(injectionFile{}))

// An Injector makes system calls of one Caddy fail.
type Injector struct {
	file  string
	times int32 // how often Inject was called
}

// NewInjector prepares a Caddy that has not been started.
func NewInjector(t testing.TB, c *Caddy) *Injector {
	t.Helper()
	RequireSeccomp(t)
	i := &Injector{file: filepath.Join(c.Dir, "injection")}
	testutil.Must(t, os.WriteFile(i.file, make([]byte, injectionSize), 0o600))
	c.Env = append(c.Env, envInjection+"="+i.file)
	return i
}

// Inject makes system calls fail from now on. Those of an earlier Inject no longer fail.
func (i *Injector) Inject(t testing.TB, injection Injection) {
	t.Helper()
	i.times++
	content := injectionFile{Injection: injection, Serial: i.times}
	var b bytes.Buffer
	testutil.Must(t, binary.Write(&b, binary.NativeEndian, content))
	f, err := os.OpenFile(i.file, os.O_WRONLY, 0)
	testutil.Must(t, err)
	testutil.Must(t, f.Truncate(injectionSize)) // forget how many have failed
	_, err = f.WriteAt(b.Bytes(), 0)
	testutil.Must(t, err)
	testutil.Must(t, f.Close())
}

// Failed returns how many system calls have failed since Inject.
func (i *Injector) Failed(t testing.TB) int {
	t.Helper()
	info, err := os.Stat(i.file)
	testutil.Must(t, err)
	return int(info.Size() - injectionSize)
}

// beInjected makes a Caddy supervise itself: its system calls of some kinds wait until a
// goroutine has said whether they may be made (seccomp_unotify(2)).
func beInjected(name string) error {
	file, err := unix.Open(name, unix.O_RDWR|unix.O_APPEND|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	listener, err := askForCalls()
	if err != nil {
		return err
	}
	go answerCalls(listener, file)
	return nil
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

// answerCalls itself makes no system call that it would have to answer. It adds a byte to
// the file for each call that fails.
func answerCalls(listener, file int) {
	var last injectionFile
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

func readInjection(file int) (i injectionFile) {
	b := make([]byte, injectionSize)
	if n, err := unix.Pread(file, b, 0); err == nil && n == len(b) {
		_, _ = binary.Decode(b, binary.NativeEndian, &i)
	}
	return i
}

func (n *notification) call() InjectedCall {
	switch n.Number {
	case unix.SYS_SENDFILE:
		return CallSendfile
	case unix.SYS_SENDMSG:
		return CallSendmsg
	case unix.SYS_ACCEPT4:
		return CallAccept
	case unix.SYS_OPENAT:
		return CallOpen
	case unix.SYS_SETSOCKOPT:
		if n.Arguments[1] == unix.SOL_TLS {
			return CallTX
		}
		if n.Arguments[1] == unix.SOL_TCP {
			return CallULP
		}
	}
	return noCall
}
