package harness

import (
	"os"
	"runtime"
	"strconv"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The fields of struct seccomp_data of linux/seccomp.h, as offsets. Arguments
// are little-endian.
const (
	dataNumber   = 0
	dataArgument = 16 // of the first, with 8 bytes each
)

// RequireSeccomp skips the test where a filter can't see what system calls are about: a
// 32-bit program passes pointers to the arguments of setsockopt(2) and others, by
// socketcall(2).
func RequireSeccomp(t testing.TB) {
	t.Helper()
	if strconv.IntSize == 32 {
		t.Skip("seccomp can't see arguments behind pointers")
	}
}

// load loads the lower 32 bits of a field.
func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

// unless skips some of the next instructions if the field has another value.
func unless(value uint32, skip uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jf: skip}
}

// give ends the filter with an action.
func give(action uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action}
}

// installFilter makes a filter decide what becomes of the system calls of all threads of
// this process. It stays for good.
func installFilter(program []unix.SockFilter, flags uintptr) (fd int, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 0, os.NewSyscallError("prctl", err)
	}
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	flags |= unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH
	n, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&fprog)))
	if errno != 0 {
		return 0, os.NewSyscallError("seccomp", errno)
	}
	return int(n), nil
}
