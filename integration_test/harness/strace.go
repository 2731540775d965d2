package harness

import (
	"bufio"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// Straced makes a Caddy start under strace. It returns the name of the file to which
// strace writes the system calls that Caddy sends with. Other calls are not slowed down.
func Straced(c *Caddy) string {
	output := filepath.Join(c.Dir, "strace")
	c.Under = []string{"strace", "-D", "-f", "--seccomp-bpf", "-qq", "-e", "trace=?sendfile,?sendfile64,write,writev,sendto,sendmsg",
		"-e", "signal=none", "-s", "0", "-o", output}
	return output
}

var returned = regexp.MustCompile(`(sendfile|write|writev|sendto|sendmsg)(?:64)?(?:\(| resumed>).* = (\d+)$`)

// AddUp adds the return values of each call in such a file.
func AddUp(t testing.TB, file string) map[string]int64 {
	t.Helper()
	f, err := os.Open(file)
	testutil.Must(t, err)
	defer f.Close()
	sum := map[string]int64{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if m := returned.FindStringSubmatch(lines.Text()); m != nil {
			n, err := strconv.ParseInt(m[2], 10, 64)
			testutil.Must(t, err)
			sum[m[1]] += n
		}
	}
	testutil.Must(t, lines.Err())
	return sum
}
