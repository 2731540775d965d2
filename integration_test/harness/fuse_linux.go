package harness

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// Numbers of include/uapi/linux/fuse.h, under the header's names.
const (
	fuseLookup      = 1
	fuseForget      = 2
	fuseGetattr     = 3
	fuseOpen        = 14
	fuseRead        = 15
	fuseRelease     = 18
	fuseFlush       = 25
	fuseInit        = 26
	fuseOpendir     = 27
	fuseReleasedir  = 29
	fuseInterrupt   = 36
	fuseBatchForget = 42

	fuseInHeader = 40
	valid        = 3600 // seconds for which the kernel need not ask again
	fopenDirect  = 1    // FOPEN_DIRECT_IO
	backlog      = 1000 // reads ahead that may wait at a time
)

// A FUSE is a file system that the test itself serves, so that reads can wait or fail.
// Its files are called a to z and have the same content.
type FUSE struct {
	dev     int // not an *os.File: before the mount the poller finds an error
	Content []byte
	Direct  bool                          // no page cache
	Read    func(offset int64) unix.Errno // called before each read, if not nil
}

// MountFUSE mounts a file system until the end of the test.
func MountFUSE(t testing.TB, dir string, f *FUSE) {
	t.Helper()
	var err error
	f.dev, err = unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		testutil.Missing(t, "needs /dev/fuse: "+err.Error())
	}
	testutil.Must(t, os.Mkdir(dir, 0o755))
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d,allow_other", f.dev, os.Getuid(), os.Getgid())
	if err := unix.Mount("test", dir, "fuse", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		testutil.Missing(t, "needs to mount file systems: "+err.Error())
	}
	served := make(chan struct{})
	go func() { f.serve(); close(served) }()
	t.Cleanup(func() {
		_ = unix.Unmount(dir, unix.MNT_DETACH)
		<-served
		_ = unix.Close(f.dev)
	})
}

func (f *FUSE) serve() {
	for {
		request := make([]byte, 1<<20+4096)
		n, err := unix.Read(f.dev, request)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENOENT):
			continue // ENOENT: the request was taken back
		case err != nil:
			return // unmounted
		}
		go f.answer(request[:n]) // a read may wait
	}
}

func (f *FUSE) answer(request []byte) {
	order := binary.NativeEndian
	opcode, unique, node := order.Uint32(request[4:]), order.Uint64(request[8:]), order.Uint64(request[16:])
	argument := request[fuseInHeader:]
	var body []any
	var errno unix.Errno
	switch opcode {
	case fuseInit:
		body = []any{uint32(7), uint32(31), uint32(128 << 10), uint32(0), [2]uint16{backlog, backlog}, uint32(4096), [10]uint32{}}
	case fuseLookup:
		if len(argument) != 2 || argument[0] < 'a' || argument[0] > 'z' {
			errno = unix.ENOENT
			break
		}
		node = uint64(argument[0])
		body = []any{node, [4]uint64{0, valid, valid, 0}, f.attributes(node)}
	case fuseGetattr:
		body = []any{[2]uint64{valid, 0}, f.attributes(node)}
	case fuseOpen, fuseOpendir:
		flags := uint32(0)
		if f.Direct && opcode == fuseOpen {
			flags = fopenDirect
		}
		body = []any{uint64(0), flags, uint32(0)}
	case fuseRead:
		offset, size := int64(order.Uint64(argument[8:])), int64(order.Uint32(argument[16:]))
		if f.Read != nil {
			errno = f.Read(offset)
		}
		size = max(0, min(size, int64(len(f.Content))-offset))
		body = []any{f.Content[offset:][:size]}
	case fuseRelease, fuseReleasedir, fuseFlush:
	case fuseForget, fuseBatchForget, fuseInterrupt:
		return // without an answer
	default:
		errno = unix.ENOSYS
	}
	if errno != 0 {
		body = nil
	}
	var b bytes.Buffer
	for _, field := range append([]any{uint32(0), -int32(errno), unique}, body...) {
		_ = binary.Write(&b, order, field) // never fails
	}
	order.PutUint32(b.Bytes(), uint32(b.Len()))
	_, _ = unix.Write(f.dev, b.Bytes()) // whoever asked may be gone
}

// attributes is a struct fuse_attr.
func (f *FUSE) attributes(node uint64) any {
	a := struct {
		Ino, Size, Blocks, Atime, Mtime, Ctime                                uint64
		Atimensec, Mtimensec, Ctimensec, Mode, Nlink, UID, GID, Rdev, Blksize uint32
		Flags                                                                 uint32
	}{Ino: node, Mode: unix.S_IFDIR | 0o755, Nlink: 1, Blksize: 4096, Mtime: 1700000000}
	if node != 1 {
		a.Mode, a.Size = unix.S_IFREG|0o644, uint64(len(f.Content))
	}
	return a
}
