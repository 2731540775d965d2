package integration_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The claim of the module, as the kernel sees it: the connection is in the
// kernel, the body goes out by sendfile(2), and hardly a byte by write(2).
func TestSystemCalls(t *testing.T) {
	requireKernelTLS(t)
	requireProgram(t, "strace")
	c := newCaddy(t)
	f := c.addFile(t, "f", 64<<20)
	c.start(t, site)
	before, connections := c.metrics(t), tlsStat(t, "TlsTxSw")
	trace := c.trace(t)
	got := c.curl(t, c.url("/f"))
	sent := trace()
	if got != f.digest {
		t.Errorf("body has %v, want %v", got, f.digest)
	}
	if n := tlsStat(t, "TlsTxSw") - connections; n != 1 {
		t.Errorf("TlsTxSw has grown by %d, want 1", n)
	}
	t.Logf("bytes by system call: %v", sent)
	if sent["sendfile"] < f.size-notByKernel || sent["sendfile"] > f.size {
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
}

var returned = regexp.MustCompile(`(sendfile|write|writev|sendto|sendmsg)(?:\(| resumed>).* = (\d+)$`)

// trace watches the system calls by which the process sends. The function that
// it returns ends that and returns how many bytes each call has sent.
func (c *caddy) trace(t testing.TB) func() map[string]int64 {
	t.Helper()
	output := filepath.Join(c.dir, "strace")
	pid := strconv.Itoa(c.cmd.Process.Pid)
	cmd := exec.Command("strace", "-f", "-qq", "-e", "trace=sendfile,write,writev,sendto,sendmsg",
		"-e", "signal=none", "-s", "0", "-o", output, "-p", pid)
	var complaint strings.Builder
	cmd.Stderr = &complaint
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan string, 1)
	go func() { ended <- fmt.Sprint(cmd.Wait()) }() // interrupted, it ends with an error
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	eventually(t, "strace watches", func() error {
		select {
		case how := <-ended:
			t.Fatalf("strace: %s\n%s", how, &complaint)
		default:
		}
		return isTraced(pid)
	})
	return func() map[string]int64 {
		t.Helper()
		_ = cmd.Process.Signal(os.Interrupt)
		select {
		case <-ended:
		case <-time.After(patience):
			t.Fatal("strace does not end")
		}
		return addUp(t, output)
	}
}

// isTraced returns an error unless every thread of the process is traced.
func isTraced(pid string) error {
	threads, err := filepath.Glob("/proc/" + pid + "/task/*/status")
	if err != nil || len(threads) == 0 {
		return fmt.Errorf("no threads: %w", err)
	}
	for _, status := range threads {
		data, err := os.ReadFile(status)
		if err != nil {
			return err
		}
		if strings.Contains(string(data), "TracerPid:\t0\n") {
			return fmt.Errorf("%s is not traced", status)
		}
	}
	return nil
}

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
