package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// diskBytes and diskRequests are what the disk of the workload disk reads in a second.
	diskBytes    = 50_000_000
	diskRequests = 200
	// diskHot is how many clients of that workload download a file that is in the page
	// cache, and diskPause is how long after the beginning of one such download each of
	// them begins the next. So the processor is busy, but not with these alone.
	diskHot   = 16
	diskPause = time.Second
	// diskAlone is for how long they do so alone.
	diskAlone = 10 * time.Second
)

// A disk is a file system on a slow device: a file in memory, of which control groups let
// the servers read so much in a second. Its waits pass on the guest's clock.
type disk struct {
	dir     string // in the site: the file hot, and cold-0 and so on
	backing string
	group   string
}

// makeDisk makes the disk with files of a size.
func makeDisk(ctx context.Context, dir string, site site, files int, size int64, servers map[string]*server) (*disk, error) {
	d := &disk{filepath.Join(site.dir, "disk"), filepath.Join(dir, "disk.img"), "/run/cgroup/disk"}
	run := func(name string, arguments ...string) error {
		if output, err := exec.CommandContext(ctx, name, arguments...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", name, err, output)
		}
		return nil
	}
	total := (int64(files)+1)*size*11/10 + 64<<20
	for _, dir := range []string{d.dir, "/run/cgroup"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(d.backing, nil, 0o600); err != nil {
		return nil, err
	}
	if err := os.Truncate(d.backing, total); err != nil {
		return nil, err
	}
	if err := run("mkfs.ext4", "-q", "-F", "-O", "^has_journal", d.backing); err != nil {
		return nil, err
	}
	if err := run("mount", "-o", "loop,noatime", "-t", "ext4", d.backing, d.dir); err != nil {
		return nil, err
	}
	if err := run("mount", "-t", "cgroup2", "cgroup", "/run/cgroup"); err != nil {
		return nil, err
	}
	for i := -1; i < files; i++ {
		f, err := os.Create(d.file(i))
		if err != nil {
			return nil, err
		}
		if err := writeBody(f, size); err != nil {
			return nil, err
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
	var device unix.Stat_t
	if err := unix.Stat(d.dir, &device); err != nil {
		return nil, err
	}
	limit := fmt.Sprintf("%d:%d rbps=%d riops=%d", unix.Major(device.Dev), unix.Minor(device.Dev), diskBytes, diskRequests)
	if err := os.WriteFile("/run/cgroup/cgroup.subtree_control", []byte("+io"), 0o644); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(d.group, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(d.group, "io.max"), []byte(limit), 0o644); err != nil {
		return nil, err
	}
	for _, s := range servers {
		for _, pid := range s.pids {
			if err := os.WriteFile(filepath.Join(d.group, "cgroup.procs"), fmt.Append(nil, pid), 0o644); err != nil {
				return nil, err
			}
		}
	}
	return d, nil
}

// file returns the path of a cold file, or of the hot one for -1.
func (d *disk) file(i int) string { return filepath.Join(d.dir, diskName(i)) }

func diskName(i int) string {
	if i < 0 {
		return "hot.pdf"
	}
	return fmt.Sprintf("cold-%d.pdf", i)
}

// cool drops the caches, except for the hot file.
func (d *disk) cool() error {
	unix.Sync()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0o644); err != nil {
		return err
	}
	_, err := os.ReadFile(d.file(-1))
	return err
}

// measureDisk gives what downloads of cold files and of a hot one do to each other.
func (b *bench) measureDisk(ctx context.Context, s *server, step step, sample *Sample) error {
	if b.disk == nil {
		var err error
		if b.disk, err = makeDisk(ctx, b.dir, b.site, step.Connections, step.Size, b.servers); err != nil {
			return err
		}
	}
	if err := s.collectGarbage(ctx); err != nil {
		return err
	}
	w, err := newWitness(ctx, s)
	if err != nil {
		return err
	}
	l := &diskLoad{s: s, c: step.Case, ctx: ctx}
	if err := l.connect(b); err != nil {
		return err
	}
	defer l.close()
	if err := b.disk.cool(); err != nil {
		return err
	}
	alone := l.runHot(func() { _ = sleep(ctx, diskAlone) })
	var took time.Duration
	u := watch(s.pids)
	beside := l.runHot(func() { took = l.runCold() })
	threads, resident := u.end()
	if err := l.failed(); err != nil {
		return err
	}
	bodies := (int64(len(alone)+len(beside)) + int64(step.Connections)) * step.Size
	if err := w.check(ctx, step.Case, diskHot, bodies); err != nil {
		return err
	}
	v := sample.Values
	v["cold-MiB/s"] = float64(step.Connections) * float64(step.Size) / (1 << 20) / took.Seconds()
	for name, d := range map[string][]download{"hot": beside, "alone": alone} {
		var first, whole []float64
		var seconds float64
		for _, one := range d {
			first = append(first, one.first.Seconds()*1e3)
			whole = append(whole, one.whole.Seconds()*1e3)
			seconds += one.whole.Seconds()
		}
		v[name+"-MiB/s"] = float64(len(d)) * float64(step.Size) / (1 << 20) / seconds
		v[name+"-ttfb-p50-ms"], v[name+"-ttfb-p99-ms"] = percentile(first, 0.50), percentile(first, 0.99)
		v[name+"-p50-ms"], v[name+"-p99-ms"] = percentile(whole, 0.50), percentile(whole, 0.99)
	}
	v["threads"], v["peak-rss-MiB"] = float64(threads), resident/(1<<20)
	return nil
}

// A diskLoad has the clients of the workload disk.
type diskLoad struct {
	s         *server
	c         Case
	ctx       context.Context
	hot, cold []*http.Client // over HTTP/2, the cold downloads share the hot ones' connections
	lock      sync.Mutex
	err       error
}

// A download has the times from its request to the first and to the last byte.
type download struct{ first, whole time.Duration }

func (l *diskLoad) fail(err error) {
	l.lock.Lock()
	defer l.lock.Unlock()
	if l.err == nil {
		l.err = err
	}
}

func (l *diskLoad) failed() error {
	l.lock.Lock()
	defer l.lock.Unlock()
	return l.err
}

// connect makes the connections. Each has a small request.
func (l *diskLoad) connect(b *bench) error {
	for range diskHot {
		l.hot = append(l.hot, newClient(l.c.Protocol, b.roots))
	}
	clients := l.hot
	for i := range l.c.Connections {
		if l.c.Protocol == http2 {
			l.cold = append(l.cold, l.hot[i%diskHot])
			continue
		}
		l.cold = append(l.cold, newClient(l.c.Protocol, b.roots))
		clients = append(clients[:len(clients):len(clients)], l.cold[i])
	}
	small := l.c
	small.Size = connectSize
	for _, client := range clients {
		if err := fetch(l.ctx, client, l.s, small); err != nil {
			return err
		}
	}
	return nil
}

func (l *diskLoad) close() {
	for _, client := range append(l.hot, l.cold...) {
		client.CloseIdleConnections()
	}
}

// runHot has the hot downloads go on until f returns.
func (l *diskLoad) runHot(f func()) (done []download) {
	ctx, stop := context.WithCancel(l.ctx)
	var all sync.WaitGroup
	var lock sync.Mutex
	for i, client := range l.hot {
		all.Go(func() {
			next := time.Now().Add(diskPause * time.Duration(i) / diskHot)
			for sleep(ctx, time.Until(next)) == nil {
				next = next.Add(diskPause)
				one, err := l.download(client, -1)
				if err != nil {
					l.fail(err)
					return
				}
				lock.Lock()
				done = append(done, one)
				lock.Unlock()
			}
		})
	}
	f()
	stop()
	all.Wait()
	return done
}

// runCold downloads all cold files at once, and returns how long that takes.
func (l *diskLoad) runCold() time.Duration {
	begun := time.Now()
	var all sync.WaitGroup
	for i, client := range l.cold {
		all.Go(func() {
			if _, err := l.download(client, i); err != nil {
				l.fail(err)
			}
		})
	}
	all.Wait()
	return time.Since(begun)
}

func (l *diskLoad) download(client *http.Client, i int) (d download, err error) {
	begun := time.Now()
	n, err := get(l.ctx, client, fmt.Sprintf("https://localhost:%d/disk/%s", l.s.port, diskName(i)), "", l.c.major(), writerFunc(func(p []byte) (int, error) {
		if d.first == 0 {
			d.first = time.Since(begun)
		}
		return len(p), nil
	}))
	d.whole = time.Since(begun)
	if err == nil && n != l.c.Size {
		err = fmt.Errorf("%s: %d bytes, want %d", diskName(i), n, l.c.Size)
	}
	return d, err
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
