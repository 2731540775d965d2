package pagecache

import (
	"errors"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
)

// resident reports whether a part of a file is in the page cache, as far as samples tell.
// If the file system can't tell, or too many ask already, it is not. If something fails, it
// is: sending the file shows the error.
func resident(part filerange.Segment) (yes bool) {
	yes = true
	_ = control(part.File, func(fd int) {
		d := deviceOf(fd)
		if d == nil {
			return
		}
		select {
		case <-d.asking:
			defer func() { d.asking <- struct{}{} }()
		default:
			yes = false
			return
		}
		// A byte that is not there may make the kernel read its page, or more from there on.
		// At the end of a stride that would be a request of its own in the middle of those
		// of load.
		firsts(part, func(offset int64) bool {
			switch err := peek(fd, offset, unix.RWF_NOWAIT); {
			case errors.Is(err, unix.EAGAIN):
				yes = false
			case unknown(err):
				yes = inMemory(fd)
				return false
			}
			return yes
		})
	})
	return yes
}

// load reads a part of a file into the page cache. It has what is ahead read too, but does
// not wait for it.
func load(part filerange.Segment, wait func(<-chan struct{}) error) error {
	free := placesFor(part)
	if free != nil {
		select {
		case <-free:
		default:
			if err := wait(free); err != nil {
				return err
			}
		}
		defer func() { free <- struct{}{} }()
	}
	_ = control(part.File, func(fd int) {
		end := part.Offset + part.Len + part.Ahead
		if free != nil {
			advise(fd, part.Offset, end)
		}
		lasts(part, func(offset int64) bool {
			// This stride and the next one are what the kernel would read ahead by itself.
			// It may have begun to read less than the whole: no more than the device takes
			// in one request.
			begin := max(offset/stride*stride, part.Offset)
			advise(fd, begin, min(offset+1, end))
			advise(fd, offset+1, min(offset+1+stride, end))
			return peek(fd, offset, 0) == nil
		})
	})
	return nil
}

// A device has places, so that a slow or hung disk takes no more threads. Each thread that
// loads waits for up to mostLoaded bytes.
type device struct {
	loading chan struct{} // something to receive for each place that is free
	// asking has places for those who ask what is in memory. They have to wait too if the
	// kernel then reads ahead, and the disk has too many requests already.
	asking chan struct{}
}

// places is how many of each kind a device has.
const places = 64

var devices sync.Map // uint64 to *device

// deviceOf returns the device that a file is on, or nil if that can't be found out.
func deviceOf(fd int) *device {
	var status unix.Stat_t
	if unix.Fstat(fd, &status) != nil {
		return nil
	}
	known, ok := devices.Load(status.Dev)
	if !ok {
		fresh := &device{make(chan struct{}, places), make(chan struct{}, places)}
		for range places {
			fresh.loading <- struct{}{}
			fresh.asking <- struct{}{}
		}
		known, _ = devices.LoadOrStore(status.Dev, fresh)
	}
	return known.(*device)
}

// placesFor returns the places of the device that a file is on. It returns nil for a file
// system that can't tell what is in the page cache. Such a file system may ask servers, of
// which one may answer sooner than others.
func placesFor(part filerange.Segment) (free chan struct{}) {
	_ = control(part.File, func(fd int) {
		if d := deviceOf(fd); d != nil && !unknown(peek(fd, beyond, unix.RWF_NOWAIT)) {
			free = d.loading
		}
	})
	return free
}

// beyond is an offset behind the end of any file. A read there needs no disk, and so never
// waits for one.
const beyond = 1 << 62

// control calls f with the descriptor of a file, which stays open meanwhile.
func control(file filerange.File, f func(fd int)) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { f(int(fd)) })
}

// peek reads one byte of a file. With RWF_NOWAIT it fails with EAGAIN if the byte is not in
// the page cache.
func peek(fd int, offset int64, flags int) (err error) {
	var b [1]byte
	for {
		if flags == 0 {
			_, err = unix.Pread(fd, b[:], offset)
		} else {
			_, err = unix.Preadv2(fd, [][]byte{b[:]}, offset, flags)
		}
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// unknown reports whether a read with RWF_NOWAIT has failed because the file system, or a
// sandbox, does not know how to do it.
func unknown(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) ||
		errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL)
}

// inMemory reports whether a file system has no disk.
func inMemory(fd int) bool {
	var status unix.Statfs_t
	if unix.Fstatfs(fd, &status) != nil {
		return false
	}
	kind := uint32(status.Type) // of another type on each architecture
	return kind == unix.TMPFS_MAGIC || kind == unix.RAMFS_MAGIC
}

// advise has the kernel read a part of a file, from one offset to another. It does not wait for the disk, unless the
// disk has too many requests already. A file system that can't is left alone.
func advise(fd int, from, to int64) {
	if from < to { // no length would mean the rest of the file
		_ = unix.Fadvise(fd, from, to-from, unix.FADV_WILLNEED)
	}
}
