package harness

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// Curl runs curl with the site's root certificate, and returns the digest of what it
// prints.
func (s Site) Curl(t testing.TB, args ...string) Digest {
	t.Helper()
	RequireProgram(t, "curl")
	d, err := RunProgram(t, "curl", append([]string{
		"--silent", "--show-error", "--fail", "--http1.1", "--noproxy", "*", "--cacert", s.RootFile(),
	}, args...)...)
	testutil.Must(t, err)
	return d
}

// WantCurl gets a file with curl, and fails the test if something else comes. The last
// argument is the file's address.
func (s Site) WantCurl(t testing.TB, f File, args ...string) {
	t.Helper()
	if got := s.Curl(t, args...); got != f.Digest {
		t.Errorf("body has %v, want %v", got, f.Digest)
	}
}

// RunProgram runs a program and returns the digest of what it prints.
func RunProgram(t testing.TB, name string, args ...string) (Digest, error) {
	d := NewDigester()
	var complaint bytes.Buffer
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stdout, cmd.Stderr = d, &complaint
	if err := cmd.Run(); err != nil {
		return Digest{}, fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, &complaint)
	}
	return d.Digest(), nil
}
