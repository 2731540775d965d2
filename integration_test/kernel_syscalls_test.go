//go:build linux

package integration_test

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
)

// The claim of the module, as the kernel sees it: the connection is in the
// kernel, the body goes out by sendfile(2), and hardly a byte by write(2).
func TestSystemCalls(t *testing.T) {
	requireKernelTLS(t)
	requireProgram(t, "strace")
	c := newCaddy(t)
	f := c.addFile(t, "f", 64<<20)
	calls := c.traced()
	c.start(t, site)
	for _, version := range []string{"--http1.1", "--http2"} {
		t.Run(version, func(t *testing.T) {
			before, connections, earlier := c.metrics(t), tlsStat(t, "TlsTxSw"), addUp(t, calls)
			if got := c.curl(t, version, c.url("/f")); got != f.digest {
				t.Errorf("body has %v, want %v", got, f.digest)
			}
			if n := tlsStat(t, "TlsTxSw") - connections; n != 1 {
				t.Errorf("TlsTxSw has grown by %d, want 1", n)
			}
			var sent map[string]int64
			eventually(t, "strace shows the body", func() error {
				sent = addUp(t, calls)
				for call, n := range earlier {
					sent[call] -= n
				}
				if n := sent["sendfile"]; n < f.size-notByKernel {
					return fmt.Errorf("%d bytes by sendfile, want %d", n, f.size)
				}
				return nil
			})
			t.Logf("bytes by system call: %v", sent)
			if sent["sendfile"] > f.size {
				t.Errorf("%d bytes by sendfile, want %d", sent["sendfile"], f.size)
			}
			delete(sent, "sendfile")
			var others int64
			for _, n := range sent {
				others += n
			}
			if others > f.size/100 {
				t.Errorf("%d bytes by other calls, want less than 1 %% of %d", others, f.size)
			}
			c.expect(t, before, sentByKernel(f.size))
		})
	}
}

// traced has Caddy start under strace, which writes to the file that it returns
// by which system calls Caddy sends. The other calls are not slowed down.
func (c *caddy) traced() string {
	output := filepath.Join(c.dir, "strace")
	c.under = []string{"strace", "-D", "-f", "--seccomp-bpf", "-qq", "-e", "trace=?sendfile,?sendfile64,write,writev,sendto,sendmsg",
		"-e", "signal=none", "-s", "0", "-o", output}
	return output
}

var returned = regexp.MustCompile(`(sendfile|write|writev|sendto|sendmsg)(?:64)?(?:\(| resumed>).* = (\d+)$`)

// addUp adds the return values of each call.
func addUp(t testing.TB, file string) map[string]int64 {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sum := map[string]int64{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if m := returned.FindStringSubmatch(lines.Text()); m != nil {
			n, err := strconv.ParseInt(m[2], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			sum[m[1]] += n
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return sum
}
