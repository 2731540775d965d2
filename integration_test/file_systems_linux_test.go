package integration_test

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// mount mounts a file system until the end of the test.
func mount(t testing.TB, dir string, args ...string) {
	t.Helper()
	requireProgram(t, "mount")
	must(t, os.MkdirAll(dir, 0o755))
	if output, err := exec.CommandContext(t.Context(), "mount", append(args, dir)...).CombinedOutput(); err != nil {
		missing(t, fmt.Sprintf("needs to mount file systems: %v: %s", err, output))
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// A file comes whole from each kind of file system, by sendfile(2) where the
// kernel can do that.
func TestFileSystems(t *testing.T) {
	onKernel(t, "6.12")
	requireKernelTLS(t)
	c := newCaddy(t)
	onDisk := func(t testing.TB, kind string) file {
		return c.addFile(t, filepath.Join(kind, "f"), large)
	}
	at := func(kind string) string { return filepath.Join(c.root, kind) }
	kinds := []struct {
		name   string
		make   func(t testing.TB, kind string) file
		copies bool // has no splice
	}{
		{"tmpfs", func(t testing.TB, kind string) file {
			mount(t, at(kind), "-t", "tmpfs", "none")
			return onDisk(t, kind)
		}, false},
		{"ext4", func(t testing.TB, kind string) file {
			requireProgram(t, "mkfs.ext4")
			image := filepath.Join(c.dir, "image")
			must(t, os.WriteFile(image, nil, 0o600))
			must(t, os.Truncate(image, 16<<20))
			_, err := run(t, "mkfs.ext4", "-q", image)
			must(t, err)
			mount(t, at(kind), "-t", "ext4", "-o", "loop", image)
			return onDisk(t, kind)
		}, false},
		{"overlay", func(t testing.TB, kind string) file {
			layers := filepath.Join(c.dir, "layers")
			mount(t, layers, "-t", "tmpfs", "none")
			for _, dir := range []string{"lower", "upper", "work"} {
				must(t, os.Mkdir(filepath.Join(layers, dir), 0o755))
			}
			f := onDisk(t, "below")
			must(t, os.WriteFile(filepath.Join(layers, "lower", "f"), f.content, 0o644))
			mount(t, at(kind), "-t", "overlay", "-o",
				fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", layers), "none")
			return f
		}, false},
		{"FUSE", func(t testing.TB, kind string) file {
			f := onDisk(t, "fused")
			mountFUSE(t, at(kind), &fuse{content: f.content})
			return f
		}, false},
		{"FUSE with direct I/O", func(t testing.TB, kind string) file {
			f := onDisk(t, "direct")
			mountFUSE(t, at(kind), &fuse{content: f.content, direct: true})
			return f
		}, false},
		{"sysfs", func(t testing.TB, kind string) file {
			const symbols = "/sys/kernel/btf/vmlinux"
			content, err := os.ReadFile(symbols)
			if err != nil {
				missing(t, "needs a large file on sysfs: "+err.Error())
			}
			must(t, os.Mkdir(at(kind), 0o755))
			must(t, os.Symlink(symbols, filepath.Join(at(kind), "f")))
			return file{digestOf(content), content}
		}, false},
		{"hugetlbfs", func(t testing.TB, kind string) file {
			mountHugePages(t, at(kind))
			f := c.addFile(t, "pages", 2<<20) // a huge page
			writeMapped(t, filepath.Join(at(kind), "f"), f.content)
			return f
		}, true},
	}
	c.start(t, site)
	for i, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			dir := fmt.Sprint(i)
			f := kind.make(t, dir)
			path := "/" + dir + "/f"
			c.forEachProtocol(t, func(t *testing.T, client *http.Client) {
				before := c.metrics(t)
				wantBody(t, do(t, client, http.MethodGet, c.url(path)), http.StatusOK, f.digest)
				wantBody(t, do(t, client, http.MethodGet, c.url(path), "Range", "bytes=4097-204096"),
					http.StatusPartialContent, f.part(4097, 204097))
				client.CloseIdleConnections()
				want := counts{"connections:offloaded": 1, "responses:sendfile": 2, "sendfile_bytes": f.size + 200_000}
				if kind.copies {
					want = counts{"connections:offloaded": 1, "responses:sendfile_refused": 2}
				}
				c.expect(t, before, want)
			})
			how := "A file on " + kind.name
			if kind.copies {
				fault(t, "Files", how+", which has no splice", "sendfile(2) refuses the file", "whole; copied through Caddy, encrypted by the kernel; `sendfile_refused` in metrics")
				return
			}
			fault(t, "Files", how, "whole, and a range, over HTTP/1.1 and HTTP/2", "whole, by sendfile")
		})
	}
}

// mountHugePages mounts a hugetlbfs with room for some pages.
func mountHugePages(t testing.TB, dir string) {
	t.Helper()
	const setting = "/proc/sys/vm/nr_hugepages"
	was, err := os.ReadFile(setting)
	if err == nil {
		err = os.WriteFile(setting, []byte("4"), 0o600)
	}
	if err != nil {
		missing(t, "needs huge pages: "+err.Error())
	}
	t.Cleanup(func() { _ = os.WriteFile(setting, was, 0o600) })
	mount(t, dir, "-t", "hugetlbfs", "-o", "pagesize=2M", "none")
}

// writeMapped writes a file whose file system has no write(2).
func writeMapped(t testing.TB, name string, content []byte) {
	t.Helper()
	f, err := os.Create(name)
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(int64(len(content))))
	mapped, err := unix.Mmap(int(f.Fd()), 0, len(content), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	copy(mapped, content)
	must(t, unix.Munmap(mapped))
}

// A disk that fails in the middle of a file ends the transfer, so that the
// client sees it. Over HTTP/2 too the connection ends, as a frame has begun.
func TestReadError(t *testing.T) {
	onKernel(t, "7.2")
	requireKernelTLS(t)
	c := newCaddy(t)
	f, other := c.addFile(t, "below", 1<<20), c.addFile(t, "other", large)
	const good = 256 << 10
	mountFUSE(t, filepath.Join(c.root, "bad"), &fuse{content: f.content, read: func(offset int64) unix.Errno {
		if offset >= good {
			return unix.EIO
		}
		return 0
	}})
	c.start(t, site)
	c.forEachProtocol(t, func(t *testing.T, client *http.Client) {
		bystander := c.client(t, nil)
		c.warm(t, bystander, "/other", other)
		descriptors, before := c.descriptors(t), c.metrics(t)
		const times = 3
		for range times {
			resp, err := try(t, client, http.MethodGet, c.url("/bad/f"))
			if err == nil {
				t.Errorf("the body ended after %d bytes as if it were complete", resp.body.size)
			}
		}
		wantBody(t, do(t, bystander, http.MethodGet, c.url("/other")), http.StatusOK, other.digest)
		client.CloseIdleConnections()
		eventually(t, "all responses have failed, and nothing is left", func() error {
			now := c.metrics(t)
			if n := now["responses_failed"] - before["responses_failed"]; n != times {
				return fmt.Errorf("%d have failed", n)
			}
			if n := now["responses:sendfile"] - before["responses:sendfile"]; n != times+1 {
				return fmt.Errorf("%d responses went out by sendfile", n)
			}
			if n := c.descriptors(t); n > descriptors {
				return fmt.Errorf("%d descriptors, before %d", n, descriptors)
			}
			return nil
		})
	})
	fault(t, "Files", "A disk that fails", "a FUSE file system answers EIO in the middle of a file",
		"the connection ends, so the transfer fails visibly; other connections go on")
}

// Downloads from a file system that hangs wait; the others do not.
func TestHangingDisk(t *testing.T) {
	onKernel(t, "7.2")
	requireKernelTLS(t)
	const hanging = 6 // more than there are processors
	c := newCaddy(t)
	f, other := c.addFile(t, "below", 1<<20), c.addFile(t, "other", 1<<20)
	var arrived atomic.Int64
	release := make(chan struct{})
	answer := sync.OnceFunc(func() { close(release) })
	t.Cleanup(answer)
	mountFUSE(t, filepath.Join(c.root, "slow"), &fuse{content: f.content, read: func(offset int64) unix.Errno {
		if offset >= 512<<10 {
			arrived.Add(1)
			<-release
		}
		return 0
	}})
	c.start(t, site)
	before := c.metrics(t)
	var all sync.WaitGroup
	for i := range hanging {
		client := c.client(t, nil)
		all.Go(func() {
			defer client.CloseIdleConnections()
			resp, err := try(t, client, http.MethodGet, c.url("/slow/"+string(rune('a'+i))))
			if err != nil {
				t.Error(err)
				return
			}
			wantBody(t, resp, http.StatusOK, f.digest)
		})
	}
	eventually(t, "all are waiting for the disk", func() error {
		if n := arrived.Load(); n < hanging {
			return fmt.Errorf("%d are", n)
		}
		return nil
	})
	for range 3 {
		wantBody(t, c.get(t, "/other"), http.StatusOK, other.digest)
	}
	answer()
	all.Wait()
	c.expect(t, before, counts{
		"connections:offloaded": hanging + 3, "responses:sendfile": hanging + 3, "sendfile_bytes": (hanging + 3) * f.size,
	})
	fault(t, "Files", "A disk that hangs", "reads of a FUSE file system wait during several sendfiles",
		"the others' downloads go on; whole when the disk answers")
}
