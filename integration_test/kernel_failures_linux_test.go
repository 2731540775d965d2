package integration_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/sys/unix"
)

const (
	kernelFailures = "Kernel failures"
	bySeccomp      = "seccomp has system calls of Caddy fail"
	often          = 1 << 30
)

// protocolClient is client for a protocol of ALPN.
func (c *caddy) protocolClient(t testing.TB, protocol string) *http.Client {
	t.Helper()
	config := c.tlsConfig(t)
	config.NextProtos = []string{protocol}
	client := c.client(t, config)
	t.Cleanup(client.CloseIdleConnections)
	return client
}

// System calls fail in Caddy.
func TestKernelFailures(t *testing.T) {
	onKernel(t, "6.1")
	requireKernelTLS(t)
	c := newCaddy(t)
	c.injectable(t)
	c.start(t, site+stock)
	t.Run("setsockopt", func(t *testing.T) { testSetsockoptFails(t, c) })
	t.Run("sendfile", func(t *testing.T) { testSendfileFails(t, c) })
	t.Run("no descriptors", func(t *testing.T) { testNoDescriptors(t, c) })
}

// The kernel doesn't take a connection: Caddy encrypts it.
func testSetsockoptFails(t *testing.T, c *caddy) {
	f := c.addFile(t, "f", large)
	wantBody(t, c.get(t, "/f"), http.StatusOK, f.digest)
	before, descriptors, refused := c.metrics(t), c.descriptors(t), 0
	for i, test := range []struct {
		call  injectedCall
		errno unix.Errno
	}{
		{callULP, unix.ENOENT}, {callULP, unix.ENOPROTOOPT}, {callTX, unix.ENOENT},
		{callTX, unix.EBUSY}, {callTX, unix.ENOMEM}, {callTX, unix.EINVAL},
	} {
		protocol := protocols[i%2]
		t.Run(fmt.Sprintf("%d/%s/%s", test.call, unix.ErrnoName(test.errno), protocol), func(t *testing.T) {
			c.inject(t, injection{Call: test.call, Errno: int32(test.errno), Times: often})
			client := c.protocolClient(t, protocol)
			for range 2 { // it is not tried twice
				wantBody(t, do(t, client, http.MethodGet, c.url("/f")), http.StatusOK, f.digest)
			}
			if n := c.injected(t); n != 1 {
				t.Errorf("%d calls have failed, want 1", n)
			}
			client.CloseIdleConnections()
			refused++
			told := false
			for _, entry := range c.withReason("kernel_refused") {
				told = told || strings.Contains(entry.text("error"), test.errno.Error())
			}
			if !told {
				t.Errorf("the log does not tell of %q", test.errno.Error())
			}
		})
	}
	// Nothing is left of it.
	c.inject(t, injection{})
	wantBody(t, c.get(t, "/f"), http.StatusOK, f.digest)
	want := sentByKernel(f.size)
	want["connections:kernel_refused"], want["responses:kernel_refused"] = int64(refused), 2*int64(refused)
	c.expect(t, before, want)
	c.closedAgain(t, descriptors)
	fault(t, kernelFailures, "setsockopt of TCP_ULP or TLS_TX fails in Caddy, HTTP/1.1 and HTTP/2", bySeccomp,
		"bodies whole, copied; `kernel_refused` in metrics, the error in the log")
}

// sendfile(2) fails in Caddy: what the file can give otherwise is copied, else the
// client sees that the body is not whole, and other connections go on.
func testSendfileFails(t *testing.T, c *caddy) {
	const longer = 1100 << 10 // than a call sends
	f := c.addFile(t, "f", longer)
	frames := c.addFile(t, "frames", large) // each takes a call
	small := c.addFile(t, "small", 20_000)
	bystander := c.protocolClient(t, "http/1.1")
	wantBody(t, do(t, bystander, http.MethodGet, c.url("/f")), http.StatusOK, f.digest)
	descriptors := c.descriptors(t)
	// A response takes at least two calls; over HTTP/1.1 one of a MiB is the first
	// part and more.
	const refused = "responses:sendfile_refused"
	for i, test := range []struct {
		injection
		outcome string
		bytes   int64 // by sendfile
	}{
		{injection{Errno: int32(unix.EINVAL), Skip: 0, Times: often}, refused, 0},
		{injection{Errno: int32(unix.EINVAL), Skip: 1, Times: often}, refused, ownFileFrame},
		{injection{Errno: int32(unix.ENOSYS), Skip: 1, Times: often}, "responses:sendfile", anyNumber},
		{injection{Errno: int32(unix.EPERM), Skip: 0, Times: often}, refused, 0},
		{injection{Errno: int32(unix.EINTR), Skip: 1, Times: 3}, "responses:sendfile", longer},
		{injection{Errno: int32(unix.EIO), Skip: 0, Times: often}, refused, 0},
		{injection{Errno: int32(unix.ENOMEM), Skip: 1, Times: often}, "responses:sendfile", anyNumber},
	} {
		protocol := protocols[i%2]
		t.Run(fmt.Sprintf("%s/%s/%d", unix.ErrnoName(unix.Errno(test.Errno)), protocol, test.Skip), func(t *testing.T) {
			before := c.metrics(t)
			test.Call = callSendfile
			c.inject(t, test.injection)
			client := c.protocolClient(t, protocol)
			path, f := "/f", f
			if protocol == http2.NextProtoTLS {
				path, f = "/frames", frames
			}
			wantBody(t, do(t, client, http.MethodGet, c.url(path)), http.StatusOK, f.digest)
			client.CloseIdleConnections()
			if c.injected(t) == 0 {
				t.Error("no call has failed")
			}
			c.expect(t, before, counts{"connections:offloaded": 1, test.outcome: 1, "sendfile_bytes": test.bytes})
		})
	}
	fault(t, kernelFailures, "sendfile is not possible, forbidden, or fails though the file can be read (EINVAL, ENOSYS, EPERM, EIO, ENOMEM), HTTP/1.1 and HTTP/2", bySeccomp,
		"copied, encrypted by the kernel, `sendfile_refused` in metrics if the first part was; body whole")
	t.Run("EINVAL, and the file is truncated", func(t *testing.T) {
		shrinking := c.addFile(t, "shrinking", huge)
		before := c.metrics(t)
		c.inject(t, injection{Call: callSendfile, Errno: int32(unix.EINVAL), Times: often})
		d := c.startDownload(t, "/shrinking")
		must(t, os.Truncate(filepath.Join(c.root, "shrinking"), 0))
		_, err := io.Copy(d.body, d.resp.Body)
		if got := d.body.digest(); err == nil || got != shrinking.part(0, got.size) {
			t.Errorf("%v, %v: want a beginning of the file and an error", got, err)
		}
		_ = d.conn.Close()
		c.expect(t, before, counts{"connections:offloaded": 1, refused: 1, "responses_failed": 1})
	})
	fault(t, kernelFailures, "sendfile is not possible (EINVAL), and the file is truncated while it is copied, HTTP/1.1", bySeccomp,
		"cut, and visibly so")
	for i, errno := range []unix.Errno{unix.EPIPE, unix.ECONNRESET, unix.EOVERFLOW, unix.ESPIPE} {
		protocol, skip := protocols[i%2], int32(i/2%2)
		t.Run(fmt.Sprintf("%s/%s/%d", unix.ErrnoName(errno), protocol, skip), func(t *testing.T) {
			before := c.metrics(t)
			c.inject(t, injection{Call: callSendfile, Errno: int32(errno), Skip: skip, Times: 1})
			c.wantCut(t, protocol, f)
			if n := c.injected(t); n != 1 {
				t.Errorf("%d calls have failed, want 1", n)
			}
			eventually(t, "the response has failed", func() error {
				now := c.metrics(t)
				if n := now["responses_failed"] - before["responses_failed"]; n != 1 {
					return fmt.Errorf("%d responses have failed", n)
				}
				return nil
			})
			// The connections before and after are well.
			wantBody(t, do(t, bystander, http.MethodGet, c.url("/small")), http.StatusOK, small.digest)
		})
	}
	before := c.metrics(t)
	wantBody(t, do(t, bystander, http.MethodGet, c.url("/f")), http.StatusOK, f.digest)
	c.expect(t, before, counts{"responses:sendfile": 1, "sendfile_bytes": f.size})
	c.closedAgain(t, descriptors)
	fault(t, kernelFailures, "sendfile fails in Caddy (EPIPE, ECONNRESET, EOVERFLOW, ESPIPE), HTTP/1.1 and HTTP/2", bySeccomp,
		"connection closed, `responses_failed` counted; the client sees it; others unharmed")
}

// wantCut gets a file of which only a beginning comes, and checks that the client
// knows.
func (c *caddy) wantCut(t testing.TB, protocol string, f file) {
	t.Helper()
	if protocol == http2.NextProtoTLS {
		h := c.openHTTP2(t, h2Windows{initial: 1 << 30, maxFrame: 16384, connection: 1 << 24})
		s := h.get("/f")
		<-h.done
		if n := h.wantPrefix(s, f); s.ended {
			t.Errorf("the stream has ended after %d bytes", n)
		}
		return
	}
	client := c.protocolClient(t, protocol)
	defer client.CloseIdleConnections()
	resp, err := client.Get(c.url("/f"))
	if err != nil {
		return // the header has not come
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil || !bytes.HasPrefix(f.content, body) {
		t.Errorf("%d bytes, %v; want a beginning of the file, and an error", len(body), err)
	}
}

// stock is the same site without the module, at another port.
const stock = `
https://localhost:{$PORT2} {
	root {$ROOT}
	file_server
}`

// No descriptors are left, for Caddy or for the whole machine: connections wait,
// files can't be opened, but what is under way goes on, and so does everything
// when there are some again.
func testNoDescriptors(t *testing.T, c *caddy) {
	f := c.addFile(t, "f", huge)
	small := c.addFile(t, "small", large)
	stockClient := c.client(t, nil)
	stockURL := "https://localhost:" + c.getenv("PORT2") + "/small"
	wantBody(t, do(t, stockClient, http.MethodGet, stockURL), http.StatusOK, small.digest)
	clients := []*http.Client{c.protocolClient(t, protocols[0]), c.protocolClient(t, protocols[1])}
	want := func(status int) {
		t.Helper()
		for _, client := range clients {
			if resp := do(t, client, http.MethodGet, c.url("/small")); resp.StatusCode != status {
				t.Errorf("status %d, want %d", resp.StatusCode, status)
			} else if status == http.StatusOK && resp.body != small.digest {
				t.Errorf("body has %v, want %v", resp.body, small.digest)
			}
		}
	}
	want(http.StatusOK)
	descriptors := c.descriptors(t)
	before := c.metrics(t)
	d := c.startDownload(t, "/f")

	c.limitDescriptors(t, 3)
	status := do(t, stockClient, http.MethodGet, stockURL).StatusCode
	if status < 400 {
		t.Errorf("stock Caddy has opened a file: status %d", status)
	}
	want(status)
	waiting := make(chan error, 1)
	go func() {
		client := c.client(t, nil)
		defer client.CloseIdleConnections()
		resp, err := try(t, client, http.MethodGet, c.url("/small"))
		if err == nil && resp.body != small.digest {
			err = fmt.Errorf("body has %v, want %v", resp.body, small.digest)
		}
		waiting <- err
	}()
	eventually(t, "Caddy can't accept", func() error {
		for _, entry := range c.log() {
			if strings.Contains(entry.message(), "too many open files") {
				return nil
			}
		}
		return fmt.Errorf("not in the log")
	})
	c.limitDescriptors(t, 4096)
	if err := <-waiting; err != nil {
		t.Errorf("the connection that had to wait: %v", err)
	}
	want(http.StatusOK)

	c.inject(t, injection{Call: callOpen, Errno: int32(unix.ENFILE), Times: often})
	want(do(t, stockClient, http.MethodGet, stockURL).StatusCode)
	c.inject(t, injection{Call: callAccept, Errno: int32(unix.ENFILE), Times: 2})
	wantBody(t, c.get(t, "/small"), http.StatusOK, small.digest)
	if n := c.injected(t); n != 2 {
		t.Errorf("accept has failed %d times, want twice", n)
	}
	want(http.StatusOK)

	wantBody(t, d.finish(t), http.StatusOK, f.digest)
	_ = d.conn.Close()
	c.expect(t, before, counts{"connections:offloaded": 3, "responses:sendfile": 7, "sendfile_bytes": anyNumber})
	c.closedAgain(t, descriptors)
	fault(t, kernelFailures, "no descriptor left in the process (EMFILE)", "prlimit of RLIMIT_NOFILE while a download is under way",
		"download whole; files can't be opened, as with stock Caddy; new connections wait, and are served then")
	fault(t, kernelFailures, "no descriptor left in the machine (ENFILE)", "seccomp has openat and accept4 fail while a download is under way",
		"the same")
}

func (c *caddy) limitDescriptors(t testing.TB, n uint64) {
	t.Helper()
	var limit unix.Rlimit
	pid := c.cmd.Process.Pid
	must(t, unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &limit))
	limit.Cur = min(n, limit.Max)
	must(t, unix.Prlimit(pid, unix.RLIMIT_NOFILE, &limit, nil))
}
