package integration_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// envSandbox puts a Caddy into a sandbox that lies: setsockopt(2) of kernel TLS
// does nothing there and succeeds. As in gVisor, SIOCOUTQ is unknown in one kind.
const envSandbox = "KTLS_TEST_SANDBOX"

const (
	lying  = "lying"
	gVisor = "gvisor"
)

func init() {
	kind := os.Getenv(envSandbox)
	if kind == "" || os.Getenv(envCaddy) == "" {
		return
	}
	const succeed = unix.SECCOMP_RET_ERRNO // with the error 0
	var program []unix.SockFilter
	if kind == gVisor {
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
	if err == nil {
		err = tryLie()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
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

// A wire keeps what a client receives, as it comes from the network.
type wire struct {
	sync.Mutex
	received bytes.Buffer
	open     sync.WaitGroup
}

// tap has a client's connections recorded.
func (w *wire) tap(client *http.Client) {
	transport := client.Transport.(*http.Transport)
	dial := transport.DialContext
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		w.open.Add(1)
		return &tappedConn{Conn: conn, wire: w}, nil
	}
}

// content returns what has come when all connections are closed.
func (w *wire) content() []byte {
	w.open.Wait()
	w.Lock()
	defer w.Unlock()
	return w.received.Bytes()
}

type tappedConn struct {
	net.Conn
	wire  *wire
	close sync.Once
}

func (c *tappedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.wire.Lock()
	defer c.wire.Unlock()
	c.wire.received.Write(p[:n])
	return n, err
}

// Close reads what is still to come for a while, because a client closes as soon as
// it finds a record that it does not understand.
func (c *tappedConn) Close() (err error) {
	c.close.Do(func() {
		defer c.wire.open.Done()
		_ = c.Conn.(*net.TCPConn).CloseWrite()
		_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
		_, _ = io.Copy(io.Discard, readerFunc(c.Read))
		err = c.Conn.Close()
	})
	return err
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// inClear returns where on the wire a piece of a file is that is not encrypted, or
// -1. Each piece of 64 bytes has a block of 32 bytes in it whole.
func inClear(wire, file []byte) int {
	const size = 32
	blocks := make(map[string]bool, len(file)/size)
	for i := 0; i+size <= len(file); i += size {
		blocks[string(file[i:i+size])] = true
	}
	for i := 0; i+size <= len(wire); i++ {
		if blocks[string(wire[i:i+size])] {
			return i
		}
	}
	return -1
}

func TestInClear(t *testing.T) {
	c := newCaddy(t)
	file := c.addFile(t, "f", 100_000).content
	other := c.addFile(t, "g", 100_000).content
	if i := inClear(other, file); i != -1 {
		t.Errorf("found at %d in another file", i)
	}
	for _, from := range []int{0, 1, 31, 33, 70_001, len(file) - 64} {
		wire := append(other[:1000:1000], file[from:from+64]...)
		if i := inClear(append(wire, other...), file); i < 1000 || i >= 1032 {
			t.Errorf("64 bytes from %d on are at 1000, found at %d", from, i)
		}
	}
}

// A sandbox, or a kernel, that says yes and does nothing gets nothing to send: what
// is taken for encrypted there would go out as it is.
func TestLyingSandbox(t *testing.T) {
	requireRealKernel(t)
	requireSeccomp(t)
	for _, offload := range []string{"large", "all"} {
		for _, kind := range []string{lying, gVisor} {
			t.Run(offload+", "+kind, func(t *testing.T) { testLyingSandbox(t, offload, kind) })
		}
	}
}

func testLyingSandbox(t *testing.T, offload, kind string) {
	c := newCaddy(t)
	c.env = append(c.env, envSandbox+"="+kind)
	f := c.addFile(t, "f", large)
	c.start(t, offloading(offload))
	before := c.metrics(t)
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			var wire wire
			client := c.protocolClient(t, protocol)
			wire.tap(client)
			for range 2 { // the first response may decide about the second
				resp, err := try(t, client, http.MethodGet, c.url("/f"))
				if err != nil {
					t.Error(err)
					break
				}
				wantBody(t, resp, http.StatusOK, f.digest)
			}
			client.CloseIdleConnections()
			received := wire.content()
			if len(received) < large {
				t.Errorf("%d bytes on the wire", len(received))
			}
			if i := inClear(received, f.content); i >= 0 {
				t.Errorf("a part of the file is on the wire in clear, at byte %d of %d", i, len(received))
			}
		})
	}
	c.expect(t, before, counts{})
	const why = "takes a key and encrypts nothing"
	entries := c.withReason("kernel_unsupported")
	if len(entries) == 0 || entries[0].text("level") != "info" || !strings.Contains(entries[0].text("error"), why) {
		t.Errorf("the log does not say at level info that the kernel %s: %v", why, entries)
	}
}

func TestCheckInLyingSandbox(t *testing.T) {
	requireRealKernel(t)
	requireSeccomp(t)
	for _, kind := range []string{lying, gVisor} {
		t.Run(kind, func(t *testing.T) { testCheckInLyingSandbox(t, kind) })
	}
}

func testCheckInLyingSandbox(t *testing.T, kind string) {
	c := newCaddy(t)
	c.env = append(c.env, envSandbox+"="+kind)
	_, result, code := c.check(t)
	const verdict = "no kernel TLS: the kernel, or a sandbox around this program, takes keys and encrypts nothing"
	if code != 1 || result.Works || result.Verdict != verdict {
		t.Errorf("exit code %d, works %v, verdict %q", code, result.Works, result.Verdict)
	}
	for _, c := range result.Ciphers {
		if c.Works || c.SendFile || c.Rekey || c.Error == "" {
			t.Errorf("%+v", c)
		}
	}
}
