package integration_test

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// mount mounts a file system until the end of the test.
func mount(t testing.TB, dir string, args ...string) {
	t.Helper()
	harness.RequireProgram(t, "mount")
	testutil.Must(t, os.MkdirAll(dir, 0o755))
	if output, err := exec.CommandContext(t.Context(), "mount", append(args, dir)...).CombinedOutput(); err != nil {
		if strings.Contains(string(output), "unknown filesystem type") {
			harness.RequireRealKernel(t, "the machine's own kernel need not know every file system")
		}
		testutil.Missing(t, fmt.Sprintf("needs to mount file systems: %v: %s", err, output))
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// fileSystems are the kinds of file systems. make mounts one in a folder of the site,
// with a file f.
var fileSystems = []struct {
	name   string
	make   func(t testing.TB, c *harness.Caddy, folder string) harness.File
	copies bool // has no splice
}{
	{"tmpfs", onTmpfs, false},
	{"ext4", onExt4, false},
	{"overlay", onOverlay, false},
	{"squashfs", onSquashfs, false},
	{"iso9660", onISO, false},
	{"FUSE", func(t testing.TB, c *harness.Caddy, folder string) harness.File {
		return onFUSE(t, c, folder, "fused", false)
	}, false},
	{"FUSE with direct I/O", func(t testing.TB, c *harness.Caddy, folder string) harness.File {
		return onFUSE(t, c, folder, "direct", true)
	}, false},
	{"sysfs", onSysfs, false},
	{"hugetlbfs", onHugePages, true},
}

// addF adds the file f to a folder of the site.
func addF(t testing.TB, c *harness.Caddy, folder string) harness.File {
	t.Helper()
	return c.Root.AddFile(t, filepath.Join(folder, "f"), harness.Large)
}

func onTmpfs(t testing.TB, c *harness.Caddy, folder string) harness.File {
	mount(t, c.Root.Path(folder), "-t", "tmpfs", "none")
	return addF(t, c, folder)
}

func onExt4(t testing.TB, c *harness.Caddy, folder string) harness.File {
	mountExt4(t, c, folder, 16<<20)
	return addF(t, c, folder)
}

// mountExt4 mounts a new file system in a folder of the site. It is in a file of a size.
func mountExt4(t testing.TB, c *harness.Caddy, folder string, size int64) {
	t.Helper()
	harness.RequireProgram(t, "mkfs.ext4")
	image := filepath.Join(c.Dir, "image")
	testutil.Must(t, os.WriteFile(image, nil, 0o600))
	testutil.Must(t, os.Truncate(image, size))
	_, err := harness.RunProgram(t, "mkfs.ext4", "-q", image)
	testutil.Must(t, err)
	mount(t, c.Root.Path(folder), "-t", "ext4", "-o", "loop", image)
}

func onOverlay(t testing.TB, c *harness.Caddy, folder string) harness.File {
	layers := filepath.Join(c.Dir, "layers")
	mount(t, layers, "-t", "tmpfs", "none")
	for _, dir := range []string{"lower", "upper", "work"} {
		testutil.Must(t, os.Mkdir(filepath.Join(layers, dir), 0o755))
	}
	f := addF(t, c, "below")
	testutil.Must(t, os.WriteFile(filepath.Join(layers, "lower", "f"), f.Content, 0o644))
	mount(t, c.Root.Path(folder), "-t", "overlay", "-o",
		fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", layers), "none")
	return f
}

func onSquashfs(t testing.TB, c *harness.Caddy, folder string) harness.File {
	return onImage(t, c, folder, "squashfs", func(source, image string) []string {
		return []string{"mksquashfs", source, image, "-quiet", "-no-progress"}
	})
}

func onISO(t testing.TB, c *harness.Caddy, folder string) harness.File {
	return onImage(t, c, folder, "iso9660", func(source, image string) []string {
		return []string{"genisoimage", "-quiet", "-rock", "-o", image, source}
	})
}

// onImage has a program make an image, with a file that compresses well.
func onImage(t testing.TB, c *harness.Caddy, folder, kind string, command func(source, image string) []string) harness.File {
	f := c.Root.AddText(t, filepath.Join(kind, "f"), harness.Large)
	image := filepath.Join(c.Dir, kind)
	program := command(c.Root.Path(kind), image)
	harness.RequireProgram(t, program[0])
	_, err := harness.RunProgram(t, program[0], program[1:]...)
	testutil.Must(t, err)
	mount(t, c.Root.Path(folder), "-t", kind, "-o", "loop,ro", image)
	return f
}

func onFUSE(t testing.TB, c *harness.Caddy, folder, below string, direct bool) harness.File {
	f := addF(t, c, below)
	harness.MountFUSE(t, c.Root.Path(folder), &harness.FUSE{Content: f.Content, Direct: direct})
	return f
}

func onSysfs(t testing.TB, c *harness.Caddy, folder string) harness.File {
	const symbols = "/sys/kernel/btf/vmlinux"
	content, err := os.ReadFile(symbols)
	if err != nil {
		testutil.Missing(t, "needs a large file on sysfs: "+err.Error())
	}
	testutil.Must(t, os.Mkdir(c.Root.Path(folder), 0o755))
	testutil.Must(t, os.Symlink(symbols, c.Root.Path(filepath.Join(folder, "f"))))
	return harness.FileOf(content)
}

func onHugePages(t testing.TB, c *harness.Caddy, folder string) harness.File {
	mountHugePages(t, c.Root.Path(folder))
	f := c.Root.AddFile(t, "pages", 2<<20) // a huge page
	writeMapped(t, c.Root.Path(filepath.Join(folder, "f")), f.Content)
	return f
}

// A file comes whole from each kind of file system, by sendfile(2) where the
// kernel can do that.
func TestFileSystems(t *testing.T) {
	harness.OnKernel(t, "6.12")
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	c.Start(t, harness.FileSite)
	for i, kind := range fileSystems {
		t.Run(kind.name, func(t *testing.T) {
			folder := fmt.Sprint(i)
			f := kind.make(t, c, folder)
			path := "/" + folder + "/f"
			c.ForEachProtocol(t, func(t *testing.T, client *http.Client) {
				before := c.Metrics(t)
				harness.WantFile(t, client, c.URL(path), f)
				harness.WantBody(t, harness.Get(t, client, c.URL(path), "Range", "bytes=4097-204096"),
					http.StatusPartialContent, f.Part(4097, 204097))
				client.CloseIdleConnections()
				want := harness.SentTimes(1, 2, f.Size+200_000)
				if kind.copies {
					want = harness.Counts{"connections:offloaded": 1, "responses:sendfile_refused": 2}
				}
				c.Expect(t, before, want)
			})
			how := "A file on " + kind.name
			if kind.copies {
				results.Fault(t, "Files", how+", which has no splice", "sendfile(2) refuses the file", "whole; copied through Caddy, encrypted by the kernel; `sendfile_refused` in metrics")
				return
			}
			results.Fault(t, "Files", how, "whole, and a range, over HTTP/1.1 and HTTP/2", "whole, by sendfile")
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
		testutil.Missing(t, "needs huge pages: "+err.Error())
	}
	t.Cleanup(func() { _ = os.WriteFile(setting, was, 0o600) })
	mount(t, dir, "-t", "hugetlbfs", "-o", "pagesize=2M", "none")
}

// writeMapped writes a file whose file system has no write(2).
func writeMapped(t testing.TB, name string, content []byte) {
	t.Helper()
	f, err := os.Create(name)
	testutil.Must(t, err)
	defer f.Close()
	testutil.Must(t, f.Truncate(int64(len(content))))
	mapped, err := unix.Mmap(int(f.Fd()), 0, len(content), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	testutil.Must(t, err)
	copy(mapped, content)
	testutil.Must(t, unix.Munmap(mapped))
}
